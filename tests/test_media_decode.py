"""Probe and decode: what a file is, exact times, the right way up, and what is said of broken files."""

from __future__ import annotations

import json
import os
import struct
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from media.clock import Clock
from media.decode import Video, fitted
from media.frames import fit, read_frames
from media.probe import probe
from media.still import read_still
from media.upright import Upright, from_matrix
from media.write import grid, sheet, write_mp4, write_png


def make_video(path: Path, stamps: list[int], base: Fraction = Fraction(1, 1000), size: tuple[int, int] = (64, 48),
               levels: list[int] | None = None, rotation: int = 0) -> Path:  # fmt: skip
    """A lossless MKV whose k-th frame is of grey level levels[k] (0, 10, 20, ...), shown at stamps[k] ticks."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = *size, "yuv420p", base
        stream.codec_context.time_base = base
        if rotation:
            stream.set_display_rotation(rotation)
        for k, stamp in enumerate(stamps):
            level = levels[k] if levels else 10 * k % 250
            planes = np.full((size[1] * 3 // 2, size[0]), 128, np.uint8)
            planes[: size[1]] = level
            frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
            frame.pts, frame.time_base = stamp, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_uneven_times_are_the_presentation_stamps(tmp_path: Path) -> None:
    stamps = [500, 540, 555, 700, 1900, 1901]
    with Video(str(make_video(tmp_path / "a.mkv", stamps))) as video:
        frames = list(video)
        assert [frame.time_s for frame in frames] == [stamp / 1000 for stamp in stamps]
        assert all(a.end_pts <= b.pts or a.end_pts > a.pts for a, b in pairwise(frames))
        assert video.result().status == "ok"


class _Picture:
    def __init__(self, pts: int | None, dts: int | None = None, duration: int = 0):
        self.pts, self.dts, self.duration = pts, dts, duration


class _Stream:
    average_rate, guessed_rate, time_base = Fraction(25), None, Fraction(1, 1000)

    class container:
        class format:
            name = "matroska"


def test_clock_is_strictly_increasing_whatever_the_stamps_are() -> None:
    clock = Clock(_Stream())
    given = [0, 40, 40, 39, None, 200, 100_000, 5, 45]
    ticks = [clock.next(_Picture(stamp))[0] for stamp in given]
    assert ticks[:4] == [0, 40, 41, 42]
    assert ticks[5] == 200 and ticks[6] == 100_000
    assert ticks[8] - ticks[7] == 40, "after a fall back of more than a second the stamps' distances go on"
    assert all(a < b for a, b in pairwise(ticks))


@pytest.mark.parametrize(
    "upright", [Upright(t, x, y) for t in (False, True) for x in (False, True) for y in (False, True)]
)
def test_display_matrix_is_read_back_in_all_eight_ways(upright: Upright) -> None:
    """A corner mark goes where the matrix sends it."""
    if upright.transpose:
        a, b, c, d = 0, -1 if upright.mirror_y else 1, -1 if upright.mirror_x else 1, 0
    else:
        a, b, c, d = -1 if upright.mirror_x else 1, 0, 0, -1 if upright.mirror_y else 1
    one = 1 << 16
    assert from_matrix(struct.pack("=9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)) == upright
    image = np.zeros((4, 6), np.uint8)
    image[1, 4] = 9  # x = 4, y = 1, seen from the centre (2.5, 1.5)
    x, y = a * 1.5 + c * -0.5, b * 1.5 + d * -0.5
    turned = upright.apply(image)
    row, column = np.argwhere(turned == 9)[0]
    assert (column - (turned.shape[1] - 1) / 2, row - (turned.shape[0] - 1) / 2) == (x, y)


def test_rotated_twins_show_the_same_picture(footage: Path) -> None:
    """The same film, tagged as turned by 90 degrees and not: decoded pixels turned by hand are what we give."""
    for name, turns in (("video_90.mov", -1), ("video_180.mov", 2), ("video_270.mov", 1)):
        path = str(footage / "decord" / name)
        with av.open(path) as container:
            stored = next(container.decode(video=0)).to_ndarray(format="gray8")
        with Video(path) as video:
            frame = next(iter(video))
            assert (frame.height, frame.width) == np.rot90(stored, turns).shape
            small = frame.luma(64).astype(int)
            by_hand = np.rot90(stored, turns)[:: stored.shape[0] // 32, :: stored.shape[0] // 32]
        assert abs(int(small[: small.shape[0] // 3].mean()) - int(by_hand[: by_hand.shape[0] // 3].mean())) < 12
        assert probe(path).rotation_deg == turns * -90 % 360


def test_every_real_file_has_a_status_and_decodes_what_the_manifest_says(footage: Path) -> None:
    manifest = {one["file"]: one for one in json.loads((footage / "manifest.json").read_text())}
    seen = 0
    for name, record in manifest.items():
        found = probe(str(footage / name))
        assert (found.reason is None) == (found.status == "ok"), name
        if record.get("error") and not record.get("frames_decoded"):
            assert found.status == "failed", name
        if record.get("frames_decoded") and record["bytes"] < 150_000 and found.media == "video":
            with Video(str(footage / name), 2) as video:
                assert sum(1 for _ in video) == record["frames_decoded"] or record["frames_decoded"] > 4000, name
                assert (video.result().status == "ok") == (record["error"] is None), name
            seen += 1
    assert seen > 30


def test_what_is_no_media_is_unsupported_and_what_is_broken_failed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text" * 200)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n")
    (tmp_path / "letter.mp4").write_text("Dear sir, " * 300)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff" + b"\0" * 99)
    os.mkfifo(tmp_path / "pipe.mp4")
    expected = {"notes.txt": "unsupported", "list.m3u8": "unsupported", "letter.mp4": "failed", "empty.mp4": "failed",
                "broken.jpg": "failed", "pipe.mp4": "failed", "absent.mp4": "failed"}  # fmt: skip
    assert {name: probe(str(tmp_path / name)).status for name in expected} == expected


def test_a_file_cut_short_is_partial(tmp_path: Path, generated: Path) -> None:
    whole = (generated / "pans.mp4").read_bytes()
    source = make_video(tmp_path / "a.mkv", [40 * k for k in range(100)]).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(source[: len(source) // 2])
    for path in (tmp_path / "cut.mkv", generated / "truncated.mp4"):
        with Video(str(path)) as video:
            count = sum(1 for _ in video)
            result = video.result()
        assert count and result.status == "partial" and result.reason, path
    assert whole


def test_sizes_change_in_mid_stream(footage: Path) -> None:
    with Video(str(footage / "wpt" / "400x300-red-resize-200x150-green.webm")) as video:
        sizes = [(frame.width, frame.height) for frame in video]
    assert sizes == [(400, 300)] * 59 + [(200, 150)] * 60


def test_colours_are_right_in_every_range_and_matrix(footage: Path) -> None:
    """Flat colours that the files' makers chose (red then green; four quarters), within coding loss."""
    picture = read_frames(str(footage / "wpt" / "four-colors.mp4"), [0.0])[0]
    corners = [picture[60, 80], picture[60, 240], picture[180, 80], picture[180, 240]]
    assert {tuple((corner > 127).tolist()) for corner in corners} == {
        (True, True, False), (True, False, False), (False, False, True), (False, True, False)}  # fmt: skip
    green = read_frames(str(footage / "wpt" / "400x300-red-resize-200x150-green.mp4"), [1.9])[0]
    assert np.abs(green.mean((0, 1)) - (0, 128, 0)).max() < 6 or np.abs(green.mean((0, 1)) - (0, 255, 0)).max() < 6


def test_full_and_limited_range_give_the_same_grey(tmp_path: Path) -> None:
    for full, level in ((False, 126), (True, 128)):
        path = tmp_path / f"{full}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.color_range = 2 if full else 1
            planes = np.full((72, 64), 128, np.uint8)
            planes[:48] = level
            frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
            frame.color_range = 2 if full else 1
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        with Video(str(path)) as video:
            frame = next(iter(video))
            assert abs(int(frame.luma(32).mean()) - 128) <= 1
            assert np.abs(frame.rgb().astype(int) - 128).max() <= 2


def test_read_frames_gives_what_is_shown(tmp_path: Path) -> None:
    path = str(make_video(tmp_path / "a.mkv", [0, 40, 100, 1000], levels=[20, 60, 120, 200]))
    shown = read_frames(path, [0.5, 0.0, 0.0999, 0.04, 99.0, -1.0, 1.0])
    levels = [round((20, 60, 120, 200)[k] * 255 / 219 - 16 * 255 / 219) for k in (2, 0, 1, 1, 3, 0, 3)]
    assert np.abs(shown[:, 24, 32, 1].astype(int) - levels).max() <= 2


def test_decord_and_pyav_give_the_same_frames(footage: Path) -> None:
    from media.frames import _by_decord, _by_pyav

    path = str(footage / "mdn-interactive-examples" / "flower.mp4")
    times = np.array([0.0, 1.01, 3.0, 4.99])
    ours, theirs = _by_pyav(path, times, 1), _by_decord(path, times, 1)
    assert theirs is not None and np.array_equal(np.stack(ours), np.stack(theirs))


def test_fit_covers_and_crops() -> None:
    rgb = np.zeros((40, 80, 3), np.uint8)
    rgb[:, 20:60] = 200
    assert fit(rgb, (20, 20)).min() == 200, "the middle square is what covers a square"
    assert fit(rgb, None, (20, 0, 20, 0)).shape == (40, 40, 3)
    with pytest.raises(ValueError, match="leaves nothing"):
        fit(rgb, None, (40, 0, 40, 0))
    assert (
        fitted(1920, 1080, 512) == (512, 288) and fitted(10, 10, 512) == (10, 10) and fitted(9000, 1, 512) == (512, 1)
    )


def test_exif_orientation_and_alpha(tmp_path: Path) -> None:
    from PIL import Image

    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, :20] = (255, 0, 0)
    image = Image.fromarray(picture)
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored picture is to be turned clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    turned = read_still(str(tmp_path / "turned.png"))
    assert turned.shape == (40, 20, 3) and turned[0, 0, 0] == 255 and turned[-1, 0, 0] == 0
    assert (probe(str(tmp_path / "turned.png")).width, probe(str(tmp_path / "turned.png")).rotation_deg) == (20, 90)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_still(str(tmp_path / "clear.png")).min() == 255


def test_written_video_comes_back(tmp_path: Path) -> None:
    frames = np.zeros((6, 33, 50, 3), np.uint8)
    frames[:, :, :] = np.arange(6)[:, None, None, None] * 40 + 20
    write_mp4(str(tmp_path / "a.mp4"), frames, 24.0)
    back = read_frames(str(tmp_path / "a.mp4"), [k / 24 + 0.001 for k in range(6)])
    assert back.shape == (6, 34, 50, 3)
    assert np.abs(back.mean((1, 2, 3)) - frames.mean((1, 2, 3))).max() < 3
    write_png(str(tmp_path / "a.png"), frames[3])
    assert np.array_equal(read_still(str(tmp_path / "a.png")), frames[3])


def test_grid_and_sheet() -> None:
    tiles = [np.full((4, 6, 3), level, np.uint8) for level in (10, 20, 30)]
    made = grid(tiles, 2, gap=1)
    assert made.shape == (11, 15, 3) and made[1, 1, 0] == 10 and made[1, 8, 0] == 20 and made[6, 1, 0] == 30
    assert sheet([np.stack(tiles), np.stack(tiles[:1])], gap=1).shape == (11, 22, 3)
