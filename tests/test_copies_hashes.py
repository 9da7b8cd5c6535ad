"""Perceptual hashes: an independent transform, invariances, the blank frame, a golden."""

import numpy as np
import pytest
from scipy.fft import dctn

from curate import hashes
from tests import copy_films


def luma(seed: int) -> np.ndarray:
    return copy_films.pattern(seed).mean(axis=2).astype(np.uint8)


def test_bits_are_those_of_scipys_cosine_transform() -> None:
    picture = luma(0)[:64, :64]
    # On 64 x 64 pixels the integrated cosine is the sampled one times sinc(k / 128): a known factor per frequency.
    rows, columns = hashes._frequencies()
    sampled = dctn(picture.astype(float), type=2)[rows, columns]
    expected = sampled * np.sinc(rows / 128) * np.sinc(columns / 128)
    ours = hashes._coefficients(picture)
    scale = np.where(rows > 0, np.sqrt(2), 1) * np.where(columns > 0, np.sqrt(2), 1) / (4 * picture.size)
    np.testing.assert_allclose(ours, expected * scale, atol=1e-5)


def test_half_of_the_bits_are_set_and_the_size_of_the_picture_does_not_matter() -> None:
    for seed in range(5):
        value = hashes.frame_hash(luma(seed))
        assert value.bit_count() == 32
        doubled = np.repeat(np.repeat(luma(seed), 2, axis=0), 3, axis=1)
        assert hashes.frame_hash(doubled) == value


def test_brightness_and_contrast_cancel() -> None:
    picture = (luma(3) // 2).astype(np.uint8)
    assert hashes.frame_hash(picture + 60) == hashes.frame_hash(picture)
    assert hashes.distance(hashes.frame_hash(picture * 2), hashes.frame_hash(picture)) == 0


def test_black_bars_are_seen_through() -> None:
    picture = luma(2)
    boxed = np.pad(picture, ((60, 60), (40, 0)), constant_values=16)
    rows, columns = hashes.active_area(boxed)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (60, 60 + 480, 40, 40 + 720)
    assert hashes.frame_hash(boxed) == hashes.frame_hash(picture)


@pytest.mark.parametrize("level", [0, 16, 128, 255])
def test_a_flat_frame_is_blank_and_matches_nothing(level: int) -> None:
    noise = np.random.default_rng(level).normal(0, 2, (120, 160))
    flat = np.clip(level + noise, 0, 255).astype(np.uint8)
    assert hashes.frame_hash(flat) == hashes.BLANK
    blank = np.array([hashes.BLANK], np.uint64)
    assert hashes.distances(blank, blank)[0, 0] == 64


def test_copies_are_near_and_other_pictures_far() -> None:
    pictures = [copy_films.pattern(seed) for seed in range(12)] + copy_films.photographs()
    values = np.array([hashes.frame_hash(p.mean(axis=2).astype(np.uint8)) for p in pictures], np.uint64)
    apart = hashes.distances(values, values)[np.triu_indices(len(values), 1)]
    assert apart.min() >= 18
    for name, most in (("reencoded", 4), ("half size", 4), ("darker", 4), ("letterboxed", 4), ("brighter", 8)):
        change = copy_films.CHANGES[name]
        copied = [hashes.frame_hash(change(p).mean(axis=2).astype(np.uint8)) for p in pictures]
        assert hashes.distance(values, np.array(copied, np.uint64)).max() <= most, name


def test_distance_is_that_of_counted_bits() -> None:
    draw = np.random.default_rng(0)
    a, b = (draw.integers(1, 2**63, 50, dtype=np.uint64) for _ in range(2))
    expected = [[(int(x) ^ int(y)).bit_count() for y in b] for x in a]
    np.testing.assert_array_equal(hashes.distances(a, b), expected)


def test_golden_hash() -> None:
    """Remade by printing frame_hash of this picture; a change of it needs a new HASH_VERSION."""
    y, x = np.mgrid[0:90, 0:160]
    picture = (127 + 60 * np.sin(x / 17) + 50 * np.cos(y / 9 + x / 40)).astype(np.uint8)
    assert (hashes.HASH_VERSION, f"{hashes.frame_hash(picture):016x}") == (1, "351dd69178bc48dc")


@pytest.mark.parametrize("wrong", [np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8)])
def test_what_is_no_luma_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="luma must be"):
        hashes.frame_hash(wrong)
