"""The right picture at the right time: every way in which a file may store its colours, shapes and stamps.

The picture has four quarters (red, green, blue, grey), so a wrong turn, a wrong matrix and a wrong range all show.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from curate.scan import Source, scan_video
from media.colour import HLG, PQ, tone_map
from media.decode import Frame, Video
from pipelines import Curate

QUARTERS = np.array([[[200, 30, 30], [30, 180, 30]], [[30, 30, 200], [128, 128, 128]]], np.uint8)


def quarters(width: int, height: int) -> np.ndarray:
    """RGB uint8 (h, w, 3): red and green above, blue and grey below."""
    rows, columns = np.arange(height) * 2 // height, np.arange(width) * 2 // width
    return QUARTERS[rows[:, None], columns[None, :]]


def corners(rgb: np.ndarray) -> np.ndarray:
    """The colours (2, 2, 3) in the middles of the quarters."""
    height, width = rgb.shape[:2]
    rows, columns = [height // 4, height * 3 // 4], [width // 4, width * 3 // 4]
    return rgb[np.ix_(rows, columns)].astype(int)


def store(path: Path, kind: str = "yuv420p", size: tuple[int, int] = (96, 64), stamps: tuple[int, ...] = (0, 40, 80),
          codec: str = "ffv1", picture: np.ndarray | None = None, **tags: Any) -> Path:  # fmt: skip
    """The picture, in BT.709, limited range unless the tags say otherwise, at stamps in ms."""
    rgb = quarters(*size) if picture is None else picture
    full = tags.get("color_range") == 2
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, kind
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 2 if full else 1
        if "rotation" in tags:
            stream.set_display_rotation(tags["rotation"])
        if "sar" in tags:
            stream.codec_context.sample_aspect_ratio = tags["sar"]
        if "trc" in tags:
            stream.codec_context.color_trc, stream.codec_context.color_primaries = tags["trc"], 9
        for stamp in stamps:
            deep = "rgb48le" if rgb.dtype == np.uint16 else "rgb24"
            frame = av.VideoFrame.from_ndarray(rgb, deep)
            frame = frame.reformat(format=kind, dst_colorspace=1, dst_color_range=2 if full else 1)
            frame.colorspace, frame.color_range, frame.pts, frame.time_base = (
                1,
                2 if full else 1,
                stamp,
                Fraction(1, 1000),
            )
            if "trc" in tags:
                frame.color_trc, frame.color_primaries = tags["trc"], 9
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decoded(path: Path) -> list[Frame]:
    with Video(str(path)) as video:
        frames = list(video)
        assert video.result().status == "ok", video.result()
    return frames


@pytest.mark.parametrize(
    ("kind", "tags"),
    [("yuv420p", {}), ("yuv420p", {"color_range": 2}), ("yuv420p10le", {}), ("yuv422p10le", {}), ("yuv444p", {}),
     ("yuva420p", {}), ("yuv420p12le", {})],
)  # fmt: skip
def test_colours_are_right_in_every_format(tmp_path: Path, kind: str, tags: dict[str, int]) -> None:
    """8, 10 and 12 bits, limited and full range, with alpha: exact picture, quick one, and its luma agree."""
    frame = decoded(store(tmp_path / "a.mkv", kind, **tags))[0]
    assert np.abs(corners(frame.rgb()) - QUARTERS).max() <= 4
    assert np.abs(corners(frame.shrunk(48).rgb(48)) - QUARTERS).max() <= 8
    grey = corners(np.repeat(frame.luma(48)[..., None], 3, axis=2))[..., 0]
    assert np.abs(grey - QUARTERS @ (0.2126, 0.7152, 0.0722)).max() <= 3
    assert np.abs(corners(frame.bgr(48)[..., ::-1]) - QUARTERS).max() <= 45, "roughly: another matrix, on purpose"


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_turned_pictures_are_upright(tmp_path: Path, turn: int) -> None:
    frame = decoded(store(tmp_path / "a.mkv", rotation=turn))[0]
    upright = np.rot90(QUARTERS, turn // 90)  # the tag turns counter-clockwise
    assert (frame.width, frame.height) == ((96, 64) if turn == 180 else (64, 96))
    for rgb in (frame.rgb(), frame.shrunk(48).rgb(48)):
        assert np.abs(corners(rgb) - upright).max() <= 8
    assert frame.luma(48).shape[:2] == frame.bgr(48).shape[:2] == frame.shrunk(48).rgb(48).shape[:2]


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path) -> None:
    frame = decoded(store(tmp_path / "a.mp4", sar=Fraction(2, 1), codec="libx264"))[0]
    assert (frame.width, frame.height) == (192, 64) and frame.rgb().shape == (64, 192, 3)
    assert frame.shrunk(96).rgb(96).shape == (32, 96, 3)
    assert np.abs(corners(frame.rgb()) - QUARTERS).max() <= 8


@pytest.mark.parametrize("size", [(97, 65), (31, 64), (96, 33)])
@pytest.mark.parametrize("kind", ["yuv420p", "yuv444p"])
def test_odd_sizes_are_whole(tmp_path: Path, size: tuple[int, int], kind: str) -> None:
    frame = decoded(store(tmp_path / "a.mkv", kind, size))[0]
    assert (frame.width, frame.height) == size and frame.rgb().shape == (size[1], size[0], 3)
    assert np.abs(corners(frame.rgb()) - QUARTERS).max() <= 4
    assert np.abs(corners(frame.shrunk(30).rgb(30)) - QUARTERS).max() <= 12


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_is_mapped_to_sdr(tmp_path: Path, transfer: int) -> None:
    """A 10-bit file is shown as the declared curve has it, whatever the size; hues and order stay."""
    coded = (quarters(96, 64).astype(np.uint16) * 180).astype(np.uint16)  # up to 0.55 of the range
    frame = decoded(store(tmp_path / "a.mkv", "yuv420p10le", picture=coded, trc=transfer))[0]
    wanted = tone_map(QUARTERS.astype(np.float32) * 180 / 65535, transfer).astype(int)
    assert np.abs(corners(frame.rgb()) - wanted).max() <= 6
    assert np.abs(corners(frame.shrunk(48).rgb(48)) - wanted).max() <= 10
    red, green, blue, grey = corners(frame.rgb()).reshape(4, 3)
    assert red.argmax() == 0 and green.argmax() == 1 and blue.argmax() == 2 and np.ptp(grey) <= 2


def test_times_with_an_edit_list_b_frames_and_a_late_start(tmp_path: Path) -> None:
    """The container hides the decoder's delay in an edit list; uneven stamps and the late start are kept."""
    stamps = (400, 440, 480, 700, 720, 760, 1500, 1540, 1541)
    frames = decoded(store(tmp_path / "a.mp4", stamps=stamps, codec="libx264"))
    assert np.allclose([frame.time_s for frame in frames], np.array(stamps) / 1000, atol=1e-3)
    assert np.abs(corners(frames[-1].rgb()) - QUARTERS).max() <= 8


def test_a_new_size_in_mid_stream_is_a_cut_at_its_frame(tmp_path: Path) -> None:
    """Two streams one after the other: half the size from frame 30 on, colours the other way round."""
    first = store(tmp_path / "a.h264", stamps=tuple(range(0, 1200, 40)), codec="libx264")
    turned = np.ascontiguousarray(quarters(48, 32)[:, ::-1])
    second = store(
        tmp_path / "b.h264", size=(48, 32), stamps=tuple(range(0, 1200, 40)), codec="libx264", picture=turned
    )
    path = tmp_path / "both.h264"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    frames = decoded(path)
    assert [frame.width for frame in frames] == [96] * 30 + [48] * 30
    assert np.abs(corners(frames[29].rgb()) - QUARTERS).max() <= 8
    assert np.abs(corners(frames[30].rgb()) - QUARTERS[:, ::-1]).max() <= 8
    rows: list[dict[str, Any]] = []
    scan_video(Source("0", str(path), path.stat().st_size, ""), Curate(), frozenset({"clips"}),
               lambda _, new: rows.extend(new), lambda _: None)  # fmt: skip
    assert [row["shot_start_tick"] for row in rows] == [frames[0].pts, frames[30].pts]
    assert rows[1]["start_kind"] == "resize"
