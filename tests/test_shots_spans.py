"""Shots: labelled real footage, generated footage, and what cutting up and trimming must keep."""

from __future__ import annotations

import runpy
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from curate.cuts import Look, boundaries, change
from curate.gradual import COARSE, _coarse, _ends, dissolves, fades
from curate.sharpest import laplacian_variance, sharpest
from curate.shots import ShotFinder
from curate.spans import Edge, parts, usable, window
from pipelines import Shots

ROOT = Path(__file__).resolve().parents[1]
SHOTS = runpy.run_path(str(ROOT / "benchmarks" / "shots.py"), run_name="benchmarks.shots")


def pooled(folder: Path, most_bytes: int = 3_000_000) -> tuple[float, int]:
    total = SHOTS["Score"]()
    for file, truth in SHOTS["truths"](folder).items():
        if (folder / file).stat().st_size > most_bytes:
            continue
        total = total.plus(SHOTS["score"](SHOTS["detect"](folder / file), truth))
    return SHOTS["rates"](*total[:3])[2], total.gradual_false


def test_hard_cuts_of_generated_footage(generated: Path) -> None:
    f1, false = pooled(generated)
    assert f1 >= 0.98 and false == 0


def test_hard_cuts_of_labelled_footage(footage: Path) -> None:
    f1, false = pooled(footage, 700_000)
    assert f1 >= 0.95 and false == 0


@pytest.mark.slow
def test_hard_cuts_of_all_labelled_footage(footage: Path) -> None:
    f1, false = pooled(footage)
    assert f1 >= 0.95 and false == 0


def test_votes_are_those_of_the_library(generated: Path) -> None:
    """Our one score, and what the detectors propose by it, are PySceneDetect's own."""
    from scenedetect import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector, ContentDetector

    from curate.detectors import ADAPTIVE_FLOOR, ADAPTIVE_RATIO, CONTENT, WINDOW
    from media.decode import Video

    content = ContentDetector(CONTENT, min_scene_len=0)
    adaptive = AdaptiveDetector(ADAPTIVE_RATIO, 0, WINDOW, ADAPTIVE_FLOOR)
    theirs: dict[str, set[int]] = {"content": set(), "adaptive": set()}
    with Video(str(generated / "pans.mp4")) as video:
        finder = ShotFinder(("content", "adaptive"), Fraction(video.time_base))
        for frame in video:
            bgr, stamp = frame.bgr(256), FrameTimecode(frame.index, 24.0)
            ours = finder.push(frame, bgr)
            theirs["content"] |= {cut.frame_num for cut in content.process_frame(stamp, bgr)}
            theirs["adaptive"] |= {cut.frame_num for cut in adaptive.process_frame(stamp, bgr)}
            assert abs(ours - (content._frame_score or 0.0)) < 1e-6
    assert len(finder._looks) > 100 and all(theirs.values())
    for name, frames in theirs.items():
        assert {k for k, look in enumerate(finder._looks) if name in look.votes} == frames


def _scene(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (18, 32)).astype(np.float32)


@pytest.mark.parametrize("length", [9, 13, 25, 33])
def test_dissolve_is_found_where_it_is(length: int) -> None:
    a, b = _scene(0), _scene(1)
    shares = np.concatenate([np.zeros(40), np.arange(1, length) / length, np.ones(40)])
    thumbs = np.stack([(1 - s) * a + s * b for s in shares]).astype(np.float32)
    best = max(dissolves(thumbs, np.arange(len(thumbs)) / 25), key=lambda one: one.confidence)
    truth = (40, 40 + length - 2)
    assert SHOTS["iou"]((best.first, best.end - 1), truth) >= 0.5


def test_fade_out_and_in_is_one_transition() -> None:
    a, b = _scene(2), _scene(3)
    light = np.concatenate(
        [np.ones(30), np.linspace(1, 0, 13)[1:], np.zeros(2), np.linspace(0, 1, 13)[1:], np.ones(30)]
    )
    thumbs = np.stack([s * (a if k < 43 else b) for k, s in enumerate(light)]).astype(np.float32)
    (found,) = fades(thumbs, np.arange(len(thumbs)) / 25)
    assert SHOTS["iou"]((found.first, found.end - 1), (30, 54)) > 0.85


def test_change_ignores_brightness_and_bars() -> None:
    a, b = _scene(4), _scene(5)
    assert change(a, 0.5 * a + 20) < 1e-5 and change(a, b) > 0.7
    a[:6], b[:6], a[-6:], b[-6:] = 0, 0, 0, 0
    assert change(a, b) > 0.7


def test_parts_are_equal_and_no_longer_than_the_limit() -> None:
    for length in (0.5, 19.99, 20.0, 20.01, 61.0, 400.0):
        cuts = [3.0, *parts(3.0, 3.0 + length, 20.0), 3.0 + length]
        steps = np.diff(cuts)
        assert steps.max() <= 20.0 + 1e-4 and np.ptp(steps) < 1e-9
    assert parts(0.0, 20.0, 20.0) == []


def test_trimming_is_at_cuts_only() -> None:
    rules, cut, start = Shots(trim_s=0.1), Edge("cut", 1.0), Edge("start", 1.0)
    assert usable(1.0, 3.0, start, cut, rules) == (1.0, 2.9)
    assert usable(1.0, 3.0, cut, Edge("end", 1.0), rules) == (1.1, 3.0)
    assert usable(1.0, 3.0, Edge("span", 1.0), Edge("span", 1.0), rules) == (1.0, 3.0)
    assert window(1.0, 3.0, 1.0, 0.8) == 1.0 and window(1.0, 2.0, 1.0, 0.8) == pytest.approx(0.2)


def test_sharpest_frame_is_the_sharpest_of_its_window() -> None:
    times, scores = [0.0, 0.5, 0.9, 1.0, 2.0], [1.0, 3.0, 2.0, 9.0, 10.0]
    assert sharpest(times, scores, 0.0, 1.0) == 1
    assert sharpest(times, scores, 0.6, 0.0) == 2
    with pytest.raises(ValueError, match="no frame"):
        sharpest(times, scores, 3.0, 1.0)


def test_laplacian_falls_with_blur_and_ignores_offset() -> None:
    import cv2

    picture = np.random.default_rng(0).integers(0, 200, (90, 120), np.uint8)
    values = [laplacian_variance(cv2.GaussianBlur(picture, (0, 0), s)) for s in (0.5, 1.0, 2.0, 4.0)]
    assert values == sorted(values, reverse=True)
    assert laplacian_variance(picture + 50) == laplacian_variance(picture)
    wide = np.pad(picture.astype(np.float64), 1, mode="reflect")
    by_hand = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:] - 4 * wide[1:-1, 1:-1]
    assert np.isclose(laplacian_variance(picture), by_hand.var(), rtol=1e-6)


def _looks(count: int, cuts: tuple[int, ...]) -> list[Look]:
    """Frames of pictures that change at the cuts, with the detectors' votes there."""
    pictures = [_scene(10 + sum(k >= cut for cut in cuts)) for k in range(count)]
    votes = [frozenset({"content"}) if k in cuts else frozenset[str]() for k in range(count)]
    return [Look(k, k / 25, 60.0 * (k in cuts), votes[k], pictures[k], None) for k in range(count)]


@pytest.mark.parametrize("at", range(60, 75))
def test_no_cut_is_lost_between_two_judgements(at: int) -> None:
    """Every place relative to the strides in which frames are judged; one pass gives what the whole film gives."""
    looks = _looks(260, (at, at + 40))
    finder = ShotFinder((), Fraction(1, 25))
    found = []
    for look in looks:
        finder._looks.append(look)
        before = finder.settled
        new = finder.settle()
        assert all(before <= one.last < finder.settled for one in new)
        found += new
    assert found + finder.settle(ended=True) == boundaries(looks)
    assert [one.first for one in boundaries(looks)] == [at, at + 40]


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_network_is_asked_once_a_tile_and_only_in_doubt(everywhere: bool) -> None:
    """Stand-in answers with a known dissolve: it is found where frames are asked about, whatever the pass has seen."""
    from curate.opinion import Opinion

    truth = np.zeros(300, np.float32)
    truth[100:112] = 0.9
    asked: list[tuple[int, int]] = []

    def ask(pictures: np.ndarray, before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
        first = int(pictures[before, 0, 0, 0]) + 256 * int(pictures[before, 0, 0, 1])
        count = len(pictures) - before - after
        asked.append((first, count))
        return truth[first : first + count], truth[first : first + count]

    opinion = Opinion(ask, everywhere)
    small = [np.full((27, 48, 3), (k % 256, k // 256, 0), np.uint8) for k in range(300)]
    doubt = [frozenset({"content"}) if k == 105 and not everywhere else frozenset[str]() for k in range(300)]
    looks = [Look(k, k / 25, 0.0, doubt[k], _scene(7), None, small[k]) for k in range(300)]
    opinion.complete(looks[:140], [], False)
    assert [one[:3] for one in opinion.complete(looks, [], True)] == [(100, 112, "dissolve")]
    opinion.complete(looks, [], True)
    assert len(asked) == len(set(asked)) == (6 if everywhere else 1)


@pytest.mark.slow
def test_the_network_finds_what_simple_means_do_not(generated: Path) -> None:
    found = SHOTS["detect"](generated / "rings.mkv", mode="auto")
    assert [one.kind for one in found] == ["dissolve"]
    assert SHOTS["iou"]((found[0].last, found[0].first - 1), (50, 61)) > 0.8


def test_the_coarse_size_is_that_of_areas_and_ends_lie_on_the_line_of_least_squares() -> None:
    rng = np.random.default_rng(6)
    thumbs = rng.uniform(0, 255, (9, 18, 32)).astype(np.float32)
    areas = np.stack([cv2.resize(one, COARSE, interpolation=cv2.INTER_AREA).ravel() for one in thumbs])
    assert np.allclose(_coarse(thumbs), areas, atol=1e-3)
    before, after = rng.uniform(0, 255, (2, 40))
    share = np.clip((np.arange(40) - 8.3) / 17.0, 0, 1)[:, None]
    flat = (before + share * (after - before) + rng.normal(0, 0.5, (40, 40))).astype(np.float32)
    inner = (share[8:28, 0] > 0.15) & (share[8:28, 0] < 0.85)
    told = (flat[8:28] - flat[8]) @ (flat[27] - flat[8]) / ((flat[27] - flat[8]) @ (flat[27] - flat[8]))
    slope, offset = np.polyfit(np.arange(8, 28)[inner], told[inner], 1)
    assert _ends(flat, 8, 27) == (
        max(9 - 19 // 4, round(-offset / slope + 1)),
        min(27 + 19 // 4, round((1 - offset) / slope)),
    )
