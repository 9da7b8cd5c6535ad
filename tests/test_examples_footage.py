"""The truth about the generated footage agrees with its files, seen by a decoder that knows nothing of the truth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np
import pytest

from curate.caption import from_sidecar
from examples.footage import generate
from examples.moves import CAMERA_CLASSES

FEW = ("frame.mp4", "rapid.mp4")


@pytest.fixture(scope="module")
def truth(generated: Path) -> dict[str, Any]:
    return json.loads((generated / "truth.json").read_text())


@pytest.fixture(scope="module")
def lumas(generated: Path, truth: dict[str, Any]) -> dict[str, np.ndarray]:
    """Of every video that is whole: uint8 (T, h, w) at a quarter of the size, as stored."""
    return {name: luma(generated / name, 4) for name, record in videos(truth).items() if record["expect"] == "ok"}


def videos(truth: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: record for name, record in truth["files"].items() if record["media"] == "video"}


def originals(truth: dict[str, Any]) -> dict[str, dict[str, Any]]:
    whole = videos(truth).items()
    return {name: one for name, one in whole if one["expect"] == "ok" and one["duplicate_of"] is None}


def presentation_times(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.array([frame.time for frame in container.decode(video=0)])


def luma(path: Path, shrink: int = 1) -> np.ndarray:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    size = (frames[0].shape[1] // shrink, frames[0].shape[0] // shrink)
    return np.stack([cv2.resize(one, size, interpolation=cv2.INTER_AREA) if shrink > 1 else one for one in frames])


def change(lumas: np.ndarray) -> np.ndarray:
    """(T,) mean absolute difference of each frame to the one before; 0 for the first."""
    steps = np.abs(np.diff(lumas.astype(np.float32), axis=0)).mean(axis=(1, 2))
    return np.concatenate([[0], steps])


def test_there_is_enough_and_of_every_kind(truth: dict[str, Any]) -> None:
    found = videos(truth)
    shots = [shot for record in found.values() for shot in record["shots"]]
    assert len(truth["files"]) >= 24
    assert all(2.5 <= record["duration_s"] <= 20 for record in found.values())
    assert {record["codec"] for record in found.values()} == {"h264", "hevc", "vp9", "av1", "mpeg4", "ffv1"}
    assert {shot["camera"] for shot in shots} == {*CAMERA_CLASSES, None}
    assert any(shot["text"] for shot in shots) and any(shot["flash_frames"] for shot in shots)
    assert {shot["exposure"] for shot in shots} == {"right", "over", "under"}
    assert sum(record["overlay"] for record in found.values()) >= 3
    assert len(truth["duplicates"]) >= 5
    assert {record["expect"] for record in truth["files"].values()} == {"ok", "partial", "failed", "unsupported"}


def test_sizes_and_counts_are_those_of_the_files(generated: Path, truth: dict[str, Any], lumas: dict[str, Any]) -> None:
    for name, decoded in lumas.items():
        record = truth["files"][name]
        upright = (record["width"], record["height"])
        with av.open(str(generated / name)) as container:
            stream = container.streams.video[0]
            stored = (stream.width, stream.height)
        assert len(decoded) == record["frames"], name
        assert stored == (upright if record["rotation_deg"] % 180 == 0 else upright[::-1]), name


def test_times_are_the_presentation_times(generated: Path, truth: dict[str, Any]) -> None:
    for name, record in videos(truth).items():
        if not record["cuts"] or record["expect"] != "ok":
            continue
        times = presentation_times(generated / name)
        assert times[0] == pytest.approx(record["start_s"], abs=1e-6), name
        for cut in record["cuts"]:
            assert times[cut["frame"]] == pytest.approx(cut["time_s"], abs=1e-6), name


def test_cuts_are_where_the_picture_changes_most(truth: dict[str, Any], lumas: dict[str, np.ndarray]) -> None:
    for name, decoded in lumas.items():
        record = truth["files"][name]
        steps = change(decoded)
        for cut in (cut["frame"] for cut in record["cuts"]):
            around = [*steps[max(1, cut - 4) : cut], *steps[cut + 1 : cut + 5]]
            assert steps[cut] > 2 * max(around) and steps[cut] > 8, (name, cut, steps[cut - 4 : cut + 5])


def test_within_a_shot_nothing_jumps_but_flashes(truth: dict[str, Any], lumas: dict[str, np.ndarray]) -> None:
    for name, decoded in lumas.items():
        steps = change(decoded)
        for shot in truth["files"][name]["shots"]:
            calm = set(range(shot["first_frame"] + 1, shot["end_frame"]))
            calm -= {frame + late for frame in shot["flash_frames"] for late in (0, 1)}
            inside = steps[sorted(calm)]
            limit = 40 if shot["move"] in ("shake", "handheld", "pan up", "pan down") or shot["noisy"] else 22
            assert inside.max() < limit, (name, shot["shot"], inside.max())


def test_shots_cuts_and_gradual_ranges_tile_the_file(truth: dict[str, Any]) -> None:
    """Every frame is in exactly one shot or one gradual range, and cuts are where shots meet."""
    for name, record in videos(truth).items():
        seen = np.zeros(record["frames"], int)
        for shot in record["shots"]:
            seen[shot["first_frame"] : shot["end_frame"]] += 1
        for range_ in record["gradual"]:
            seen[range_["first_frame"] : range_["last_frame"] + 1] += 1
        assert (seen == 1).all(), name
        starts = {shot["first_frame"] for shot in record["shots"]}
        assert {cut["frame"] for cut in record["cuts"]} <= starts, name


def test_a_fade_reaches_black_and_a_dissolve_does_not(truth: dict[str, Any], lumas: dict[str, np.ndarray]) -> None:
    for name, decoded in lumas.items():
        for range_ in truth["files"][name]["gradual"]:
            darkest = decoded[range_["first_frame"] : range_["last_frame"] + 1].mean(axis=(1, 2)).min()
            assert (darkest < 20) == (range_["kind"] == "fade"), (name, range_, darkest)


@pytest.mark.parametrize("name", ["temple.mp4", "temple_part.webm", "tilts.mp4"])
def test_flow_measured_by_phase_correlation_is_the_truth(generated: Path, truth: dict[str, Any], name: str) -> None:
    """Independent reference, on shots in which all things move alike (no parallax)."""
    decoded = luma(generated / name)
    times = presentation_times(generated / name)
    for shot in truth["files"][name]["shots"]:
        inside = range(shot["first_frame"], shot["end_frame"] - 1)
        window = cv2.createHanningWindow(decoded.shape[:0:-1], cv2.CV_32F)
        frames = decoded.astype(np.float32)
        steps = [cv2.phaseCorrelate(frames[index], frames[index + 1], window)[0] for index in inside]
        speed = np.median(np.array(steps) / np.diff(times)[list(inside), None], axis=0)
        expected = np.array(shot["flow_px_s"])
        assert np.abs(speed - expected).max() < 0.06 * np.hypot(*expected), (shot["move"], speed, expected)


def test_flow_measured_by_optical_flow_is_the_truth(generated: Path, truth: dict[str, Any]) -> None:
    """Independent reference, on all sharp shots in which the camera moves: dense flow of every 12th pair of frames."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    ratios = {}
    for name, record in originals(truth).items():
        shots = [shot for shot in record["shots"] if shot["moving_area"] > 0.9 and not shot["blurred"] | shot["noisy"]]
        decoded, times = (luma(generated / name), presentation_times(generated / name)) if shots else ((), ())
        for shot in shots:
            edge = record["borders"]
            inside = np.s_[
                edge["top"] : record["height"] - edge["bottom"], edge["left"] : record["width"] - edge["right"]
            ]
            speeds = []
            for index in range(shot["first_frame"], shot["end_frame"] - 1, 12):
                now, then = (np.ascontiguousarray(decoded[at][inside]) for at in (index, index + 1))
                field = flow.calc(now, then, np.zeros((*now.shape, 2), np.float32))
                moved = np.hypot(*np.moveaxis(field, 2, 0)).mean()
                speeds.append(moved / (times[index + 1] - times[index]))
            ratios[name, shot["shot"]] = np.mean(speeds) / shot["motion_px_s"]
    found = np.array(list(ratios.values()))
    assert len(found) > 25
    assert (np.abs(found - 1) < 0.15).mean() > 0.9 and (np.abs(found - 1) < 0.25).all(), ratios


def test_still_shots_stand_still(truth: dict[str, Any], lumas: dict[str, np.ndarray]) -> None:
    for name, decoded in lumas.items():
        for shot in truth["files"][name]["shots"]:
            if shot["static"]:
                assert shot["motion_px_s"] == 0
                assert change(decoded[shot["first_frame"] : shot["end_frame"]]).max() < 1, name


def test_the_uneven_file_is_uneven(generated: Path, truth: dict[str, Any]) -> None:
    gaps = np.diff(presentation_times(generated / "uneven.mp4"))
    assert truth["files"]["uneven.mp4"]["variable_rate"]
    assert gaps.min() == pytest.approx(1 / 60, abs=1e-4) and gaps.max() == pytest.approx(4 / 60, abs=1e-4)


def test_the_turned_file_is_upright_after_its_display_matrix(generated: Path, truth: dict[str, Any]) -> None:
    record = truth["files"]["turned.mp4"]
    with av.open(str(generated / "turned.mp4")) as container:
        frames = list(container.decode(video=0))[: record["shots"][0]["end_frame"]]
    assert {-frame.rotation % 360 for frame in frames} == {record["rotation_deg"]}
    pixels = np.median([frame.to_ndarray(format="rgb24") for frame in frames[::5]], axis=0)
    upright = np.rot90(pixels, -record["rotation_deg"] // 90)
    assert upright.shape[:2] == (record["height"], record["width"])
    tall, wide = record["height"] // 4, record["width"] // 4
    places = {"top_left": (0, 0), "top_right": (0, 3), "bottom_left": (3, 0), "bottom_right": (3, 3)}
    for corner, (row, column) in places.items():
        block = upright[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
        assert np.abs(np.median(block, axis=(0, 1)) - record["corners"][corner]).max() < 40, corner


def test_borders_are_exact(generated: Path, truth: dict[str, Any]) -> None:
    bordered = {name: one for name, one in videos(truth).items() if any(one["borders"].values())}
    assert len(bordered) >= 3
    for name, record in bordered.items():
        decoded = luma(generated / name)[::8].astype(float)
        for side, pixels in record["borders"].items():
            lines = np.moveaxis(decoded, 1, 0) if side in ("top", "bottom") else np.moveaxis(decoded, 2, 0)
            lines = lines[::-1] if side in ("bottom", "right") else lines
            edge = lines[: pixels - 1]
            assert pixels == 0 or edge.std() < 3, (name, side, edge.std())
            assert lines[pixels + 1].std() > 4, (name, side)


def test_overlays_stay_while_the_rest_changes(generated: Path, truth: dict[str, Any]) -> None:
    for name in ("logo.mp4", "petals_logo.mp4"):
        decoded = luma(generated / name).astype(float)
        left, top, right, bottom = truth["files"][name]["overlay_boxes"][0]
        middle = decoded[
            :, (top + bottom) // 2 - 3 : (top + bottom) // 2 + 3, (left + right) // 2 - 3 : (left + right) // 2 + 3
        ]
        assert middle.std(axis=0).mean() < 0.25 * decoded.std(axis=0).mean(), name


def test_text_is_written_where_it_is_said(generated: Path, truth: dict[str, Any]) -> None:
    """White letters on black outlines: bright and dark points abound in the box."""
    for name in ("subtitles.mp4", "title.mp4", "credits.mp4"):
        decoded = luma(generated / name)
        for shot in truth["files"][name]["shots"]:
            for left, top, right, bottom in shot["text_boxes"]:
                box = decoded[(shot["first_frame"] + shot["end_frame"]) // 2, top:bottom, left:right]
                assert (box > 200).mean() > 0.05 and (box < 60).mean() > 0.05, (name, shot["shot"])


def test_variants_look_like_their_originals(truth: dict[str, Any], lumas: dict[str, np.ndarray]) -> None:
    for group in truth["duplicates"]:
        for name in set(group["variants"]) & set(lumas):
            copy, original = truth["files"][name], truth["files"][group["original"]]
            for shot in copy["shots"]:
                twin = next(one for one in original["shots"] if one["shot"] == shot["shot"])
                a = lumas[name][shot["end_frame"] - 2]
                if copy["how"].startswith("trimmed"):
                    a = lumas[name][shot["first_frame"]]
                    late = round(0.2 * original["frames"])
                    b = lumas[group["original"]][twin["first_frame"] + late]
                else:
                    b = lumas[group["original"]][twin["end_frame"] - 2]
                if "crop" in copy["how"]:
                    edge = b.shape[0] // 20, b.shape[1] // 20
                    b = b[edge[0] : -edge[0], edge[1] : -edge[1]]
                b = cv2.resize(b, a.shape[::-1], interpolation=cv2.INTER_AREA)
                assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.93, (name, shot["shot"])


def test_different_shots_look_different(truth: dict[str, Any], lumas: dict[str, np.ndarray]) -> None:
    """Middle frames of all shots of original films, pairwise: none is another one's copy."""
    seen: list[tuple[str, np.ndarray]] = []
    for name, record in originals(truth).items():
        top, left = record["borders"]["top"] // 4, record["borders"]["left"] // 4
        for shot in record["shots"]:
            middle = lumas[name][(shot["first_frame"] + shot["end_frame"]) // 2]
            middle = middle[top : len(middle) - top, left : middle.shape[1] - left]
            small = cv2.resize(middle, (24, 24), interpolation=cv2.INTER_AREA).astype(float).ravel()
            seen.append((f"{name} {shot['shot']}", small - small.mean()))
    units = np.array([one / (np.linalg.norm(one) + 1e-9) for _, one in seen])
    alike = units @ units.T - np.eye(len(units))
    a, b = np.unravel_index(alike.argmax(), alike.shape)
    assert alike.max() < 0.9, (seen[a][0], seen[b][0], alike.max())


def test_broken_files_are_broken_as_said(generated: Path, truth: dict[str, Any]) -> None:
    record = truth["files"]["truncated.mp4"]
    decoded = 0
    with av.open(str(generated / "truncated.mp4")) as container:
        assert container.streams.video[0].frames == record["frames"]
        try:
            for _ in container.decode(video=0):
                decoded += 1
        except av.error.InvalidDataError:
            pass
    assert 0.3 * record["frames"] < decoded < 0.9 * record["frames"]
    assert (generated / "empty.mp4").stat().st_size == 0
    for name, one in truth["files"].items():
        if one["expect"] == "failed":
            with pytest.raises((av.error.FFmpegError, IndexError)), av.open(str(generated / name)) as container:
                next(container.decode(video=0))


def test_sidecars_say_the_caption(generated: Path, truth: dict[str, Any]) -> None:
    kinds = set()
    for name, record in truth["files"].items():
        if record["media"] == "unsupported":
            continue
        kinds.add(record["sidecar"])
        beside = (generated / name).with_suffix(f".{record['sidecar']}")
        if record["sidecar"] == "txt":
            assert beside.read_text().strip() == record["caption"]
        elif record["sidecar"] == "json":
            fields = json.loads(beside.read_text())
            assert fields["short"] == record["caption"] and fields["dense"] and fields["tags"]
            for said, shot in zip(fields["shots"], record["shots"], strict=True):
                found = from_sidecar(beside.read_text(), ".json", (shot["start_s"], shot["end_s"]))
                assert said["start_s"] == shot["start_s"] and found.short == said["short"]
                assert shot["caption"].startswith(said["short"]) and found.dense is None and found.tags
        else:
            assert not any((generated / name).with_suffix(end).exists() for end in (".txt", ".json")), name
    assert kinds == {"txt", "json", None}


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(generated: Path, tmp_path: Path) -> None:
    for folder, seed in (("same", 0), ("other", 1)):
        generate(tmp_path / folder, seed, only=FEW, workers=1)
    for name in FEW:
        folders = (generated, tmp_path / "same", tmp_path / "other")
        first, second, other = (hashlib.sha256((folder / name).read_bytes()).digest() for folder in folders)
        assert first == second, f"{name}: seed 0 twice gave different bytes"
        assert first != other, f"{name}: seeds 0 and 1 gave the same bytes"
