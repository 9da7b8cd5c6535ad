"""Which frames keep a picture, when pairs of flow begin, and the small pictures made of the decoder's planes."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from curate.seen import Seen
from curate.sharpest import laplacian_variance
from curate.signals.flow import CUT, FlowPair, FlowPairs, Rhythm
from curate.waiting import SLOT_S, Line
from media.decode import Video
from media.reduce import MOST_KEPT, _kept, averaged, averaged_420, reformatted


def test_the_sharpest_of_every_tenth_of_a_second_keeps_its_picture(generated: Path) -> None:
    line, sharp = Line(sharp=True, pictures=True, lumas=False), {}
    with Video(str(generated / "half_blurred.mp4")) as video:
        for frame in video:
            seen = Seen(frame)
            sharp[frame.pts] = (int(frame.time_s / SLOT_S + 1e-6), laplacian_variance(seen.small_luma))
            line.push(seen)
    line.choose()
    out = [line.pop() for _ in range(len(line))]
    assert [one.frame.pts for one in out] == sorted(sharp), "every frame comes out, in order"
    best = {slot: max(value for other, value in sharp.values() if other == slot) for slot, _ in sharp.values()}
    assert {sharp[one.frame.pts][0] for one in out if one.chosen} == set(best)
    for one in out:
        slot, value = sharp[one.frame.pts]
        assert one.sharpness == value and (not one.chosen or value == best[slot])
        if one.chosen:
            assert max(one.frame.rgb(512).shape) <= 512
    assert sum(one.chosen for one in out) == len(best) < len(out)


def test_without_proxies_and_hashes_no_picture_is_kept(generated: Path) -> None:
    line = Line(sharp=True, pictures=False, lumas=False)
    with Video(str(generated / "squares.webm")) as video:
        for frame, _ in zip(video, range(12), strict=False):
            line.push(Seen(frame))
    line.choose()
    for one in [line.pop() for _ in range(12)]:
        assert one.luma is None
        with pytest.raises(AttributeError):
            one.frame.rgb(64)


class Moving:
    """A textured picture that slides by `speed` (widths per second) at a moment."""

    def __init__(self, time_s: float, at_px: float, content: float = 0.0):
        wide = cv2.GaussianBlur(np.random.default_rng(0).normal(128, 60, (96, 480)), (0, 0), 2) * 3 - 256
        there = np.float32([[1, 0, -at_px], [0, 1, 0]])  # type: ignore[arg-type]
        picture = cv2.warpAffine(np.clip(wide, 0, 255).astype(np.uint8), there, (480, 96))
        self.small_luma, self.time_s, self.content = np.ascontiguousarray(picture[:, 128:320]), time_s, content


def pairs_of(speeds: list[float], content: dict[int, float] | None = None, fps: int = 24) -> list[FlowPair]:
    """The pairs of a film of len(speeds) half seconds."""
    pairs, at, found = FlowPairs(), 0.0, []
    for k in range(len(speeds) * fps // 2):
        at += speeds[k * 2 // fps] * 192 / fps
        pair = pairs.see(Moving(k / fps, at, (content or {}).get(k, 0.0)))  # type: ignore[arg-type]
        found += [] if pair is None else [pair]
    return found


def test_steady_motion_is_looked_at_twice_a_second_and_unsteady_motion_as_often_as_it_can_be() -> None:
    steady = pairs_of([0.1] * 8)
    in_second = [sum(k <= pair.since_s < k + 1 for pair in steady) for k in range(4)]
    assert in_second == [4, 2, 2, 2], "the first second of a film is looked at closely"
    assert all(pair.since_s % 0.5 == pytest.approx(0, abs=1e-6) for pair in steady if pair.since_s >= 1)
    shaken = pairs_of([0.1, -0.1] * 4)
    assert all(sum(k <= pair.since_s < k + 1 for pair in shaken) >= 3 for k in range(4))


def test_pairs_do_not_depend_on_where_a_pass_began() -> None:
    speeds = [0.0, 0.2, 0.2, -0.1, 0.1, 0.1, 0.1, 0.1, 0.0, 0.0]
    whole = [pair.since_s for pair in pairs_of(speeds)]
    pairs, at, later = FlowPairs(), 0.0, []
    for k in range(len(speeds) * 12):
        at += speeds[k // 12] * 192 / 24
        if k >= 17:  # in the middle of the first second
            pair = pairs.see(Moving(k / 24, at))  # type: ignore[arg-type]
            later += [] if pair is None else [pair.since_s]
    assert [since for since in later if since >= 3.0] == [since for since in whole if since >= 3.0]


def test_one_jump_begins_a_shot_and_several_are_a_shake() -> None:
    cut, shake = Rhythm(), Rhythm()
    for rhythm, jumps in ((cut, (10.3,)), (shake, (10.3, 10.5))):
        rhythm.rest(9.2, None)
        for time_s in (10.0, 10.3, 10.4, 10.5):
            rhythm.begins(time_s, CUT if time_s in jumps else 0.0)
        rhythm.rest(
            10.625, FlowPair(np.full((96, 192, 2), 3.0, np.float32), np.zeros((96, 192), np.uint8), 10.5, 10.625)
        )
    assert not cut.due(10.8) and shake.due(10.8)


@pytest.mark.parametrize("size", [(854, 480), (641, 273), (300, 200), (256, 144)])
def test_averages_are_near_those_of_areas(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).normal(128, 50, (size[1], size[0]))
    plane = np.clip(cv2.GaussianBlur(noise, (0, 0), 3) * 4 - 384, 0, 255).astype(np.uint8)
    exact = cv2.resize(plane, (128, 72), interpolation=cv2.INTER_AREA)
    quick = averaged(plane, 128, 72)
    assert np.abs(quick.astype(int) - exact).mean() < 4.0 and abs(float(quick.mean()) - float(exact.mean())) < 1.0


def test_planes_lie_as_opencv_has_them() -> None:
    planes = [np.full((90, 160), 100, np.uint8), np.full((45, 80), 90, np.uint8), np.full((45, 80), 170, np.uint8)]
    out = averaged_420(planes, 64, 36)
    assert out.shape == (54, 64) and (out[:36] == 100).all()
    flat = out[36:].reshape(-1)
    assert (flat[: 18 * 32] == 90).all() and (flat[18 * 32 :] == 170).all()


def test_converters_are_kept_and_give_the_same_pixels() -> None:
    rng = np.random.default_rng(2)
    pictures = [av.VideoFrame.from_ndarray(rng.integers(0, 256, (96, 128, 3), np.uint8), "rgb24") for _ in range(3)]
    _kept.converters.clear()
    for width in range(16, 16 + 2 * (MOST_KEPT + 4), 2):
        for picture in pictures:
            ours = reformatted(picture, width, 32, "rgb24", interpolation="AREA").to_ndarray()
            assert (ours == picture.reformat(width, 32, "rgb24", interpolation="AREA").to_ndarray()).all()
    assert len(_kept.converters) == MOST_KEPT
