"""The mix of videos and images, the intervals, the curriculum: what chance decides is uniform and repeatable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines import RecipeError, VaePhase, VaeStage
from train import vae_data
from train.vae_data import Source
from train.vae_step import ends_phase, is_tiled, phase_at, tile_of

SOURCES = [
    Source("long.mp4", 320, 240, 24.0, 20.0),
    Source("brief.mp4", 320, 240, 24.0, 1.0),
    Source("picture.png", 640, 480, 0.0, 0.0),
]


def stage(**changes: Any) -> VaeStage:
    phases = (
        VaePhase(steps=10, size=32, frames=5, batch=2),
        VaePhase(steps=5, size=64, frames=17, batch=1, tiling=0.5),
    )
    return VaeStage.model_validate({"size": "nano", "phases": phases, "lr": 1e-3} | changes)


def chi_square(counts: np.ndarray, shares: np.ndarray) -> float:
    expected = counts.sum() * shares
    return float(((counts - expected) ** 2 / expected).sum())


def test_four_videos_to_one_image() -> None:
    images = sum(vae_data.is_image_step(stage(), step) for step in range(4000))
    statistic = chi_square(np.array([4000 - images, images]), np.array([0.8, 0.2]))
    assert statistic < 10.83, f"{images} images in 4000 steps: p < 0.001 with one degree of freedom"


def test_intervals_are_uniform_from_1_to_8_whatever_is_long_enough() -> None:
    chosen = stage(images=0.0)
    picks = [
        vae_data.pick(chosen, chosen.phases[0], SOURCES, step, place) for step in range(1200) for place in range(2)
    ]
    counts = np.bincount([one.interval for one in picks], minlength=9)[1:]
    assert chi_square(counts, np.full(8, 1 / 8)) < 24.32, f"{counts}: p < 0.001 with 7 degrees of freedom"
    for one in picks:
        assert one.source.fps and one.start_s >= 0
        assert one.start_s + (one.frames - 1) * one.interval / one.source.fps < one.source.duration_s
    assert {one.source.path for one in picks if one.interval == 8} == {"long.mp4"}  # 5 frames at 8: 1.4 s
    assert {one.source.path for one in picks if one.interval == 1} == {"long.mp4", "brief.mp4"}


def test_windows_are_square_inside_the_picture_and_of_all_sizes() -> None:
    chosen = stage()
    picks = [vae_data.pick(chosen, chosen.phases[0], SOURCES, step, 0) for step in range(500)]
    sides = []
    for one in picks:
        assert min(one.crop) >= 0
        side = one.source.width - one.crop.left - one.crop.right
        assert side == one.source.height - one.crop.top - one.crop.bottom
        sides.append(side)
    assert min(sides) < 40 and max(sides) > 200
    assert 0.4 < np.mean([one.mirrored for one in picks]) < 0.6


def test_a_sample_depends_on_seed_step_and_place_alone() -> None:
    chosen = stage()
    forwards = [vae_data.pick(chosen, chosen.phases[0], SOURCES, step, 0) for step in range(20)]
    backwards = [vae_data.pick(chosen, chosen.phases[0], SOURCES, step, 0) for step in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert forwards != [vae_data.pick(stage(seed=1), chosen.phases[0], SOURCES, step, 0) for step in range(20)]
    assert forwards[3] != vae_data.pick(chosen, chosen.phases[0], SOURCES, 3, 1)


def test_phases_follow_each_other_and_only_the_last_one_tiles() -> None:
    chosen = stage()
    assert [phase_at(chosen, step).frames for step in (0, 9, 10, 14, 99)] == [5, 5, 17, 17, 17]
    assert chosen.steps == 15 and [step for step in range(15) if ends_phase(chosen, step)] == [9, 14]
    long = stage(phases=[chosen.phases[0], chosen.phases[1].model_copy(update={"steps": 2000})])
    assert not any(is_tiled(long, step) for step in range(10))
    tiled = sum(is_tiled(long, step) for step in range(10, 2010))
    assert chi_square(np.array([tiled, 2000 - tiled]), np.array([0.5, 0.5])) < 10.83
    assert tile_of(chosen.phases[1]) == (8, 32)


def test_an_interval_without_footage_is_refused() -> None:
    with pytest.raises(RecipeError, match="8 apart"):
        vae_data.check_lengths(stage(), [SOURCES[1]])
    vae_data.check_lengths(stage(), SOURCES)


def test_read_ahead_keeps_order_and_raises_in_turn() -> None:
    assert list(vae_data.read_ahead(lambda step: step * 2, 3, 9, workers=3)) == [6, 8, 10, 12, 14, 16]

    def broken(step: int) -> int:
        if step == 2:
            raise ValueError("torn")
        return step

    items = vae_data.read_ahead(broken, 0, 5, workers=2)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="torn"):
        next(items)


def test_frames_of_a_clip_are_interval_apart(tmp_path: Any) -> None:
    """A film whose k-th frame has grey level 4 k: what is read says which frames it is."""
    from media.write import write_mp4

    levels = np.arange(48, dtype=np.uint8) * 4 + 20
    write_mp4(
        str(tmp_path / "ramp.mp4"), np.broadcast_to(levels[:, None, None, None], (48, 64, 64, 3)).copy(), 24.0, crf=1
    )
    listing = vae_data.list_footage([str(tmp_path)], [])
    chosen = stage(images=0.0)
    for step in range(12):
        one = vae_data.pick(chosen, chosen.phases[0], [*listing.train, *listing.holdout], step, 0)
        grey = vae_data.read(one, 32).float().mean(dim=(0, 2, 3)).numpy()
        number = (grey - 20) / 4
        assert np.abs(np.diff(number) - one.interval).max() < 0.5
        assert abs(number[0] - one.start_s * 24) <= 1.0
