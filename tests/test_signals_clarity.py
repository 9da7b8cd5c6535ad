"""Clarity: blur lowers it, light does not; photographs that were not fitted on are told from blurred ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.blurs import BLURS
from benchmarks.signal_clips import real_clip
from curate.signals.clarity import log_odds, measure, probability
from curate.signals.sharp_edges import NAMES, features, noise
from examples.textures import photograph

PHOTOGRAPHS = [f"perception/image{k}.jpg" for k in range(1, 11)] + [
    "mdn-interactive-examples/elephant-660-480.jpg", "mdn-interactive-examples/gecko-320-213.jpg", "threatexchange-tmk/aaa-orig.jpg",
    "mdn-interactive-examples/grapefruit-slice-332-332.jpg", "mdn-interactive-examples/surfer-240-200.jpg",
]  # fmt: skip


@pytest.mark.parametrize("name", list(BLURS))
def test_each_blur_lowers_it_level_by_level(name: str) -> None:
    """All levels of a shake go the same way: across edges or along them makes a difference."""
    picture = np.ascontiguousarray(photograph("china.jpg")[:300, :420])
    scores = [
        float(log_odds(features(one)[None])[0])
        for one in (picture, *(BLURS[name](picture, k, np.random.default_rng(3)) for k in (1, 3, 5)))
    ]
    assert scores == sorted(scores, reverse=True) and measure([picture]) > 0.8 > 0.2
    assert measure([BLURS[name](picture, 5, np.random.default_rng(3))]) < 0.2


def test_light_and_mirror_hardly_matter() -> None:
    picture = np.ascontiguousarray(photograph("flower.jpg")[:320, :480])
    sharp = measure([picture])
    assert sharp is not None and sharp > 0.6
    assert measure([np.ascontiguousarray(picture[:, ::-1])]) == pytest.approx(sharp, abs=0.1)
    assert measure([(picture * 0.6).astype(np.uint8)]) == pytest.approx(sharp, abs=0.25)


def test_flat_and_tiny_pictures_give_numbers() -> None:
    for shape in ((9, 9, 3), (200, 300, 3), (40, 1000, 3)):
        values = features(np.full(shape, 120, np.uint8))
        assert values.shape == (len(NAMES),) and np.isfinite(values).all()
    assert measure([]) is None


def test_noise_is_measured() -> None:
    grain = np.random.default_rng(0).normal(128, 8, (256, 256)).astype(np.float32)
    assert noise(grain) == pytest.approx(8, rel=0.12)


def test_photographs_that_were_not_fitted_on(footage: Path) -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    pictures = [real_clip(footage, name).frames[0] for name in PHOTOGRAPHS]
    blurred = [BLURS[fault](one, level, rng) for one in pictures for fault in BLURS for level in (1, 3)]
    scores = probability(np.array([features(one) for one in (*pictures, *blurred)]))
    assert roc_auc_score([1] * len(pictures) + [0] * len(blurred), scores) >= 0.95
