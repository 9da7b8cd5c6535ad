"""Pairs worth comparing, against all pairs by brute force; alignment in time; keepers without chains."""

import numpy as np
import pytest

from curate import candidates, copies
from curate.alignment import align, on_grid


def flipped(value: int, bits: list[int]) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


def test_frames_that_differ_in_five_bits_are_always_proposed() -> None:
    draw = np.random.default_rng(0)
    base = [int(value) for value in draw.integers(1, 2**63, 200, dtype=np.uint64)]
    near = [flipped(value, draw.choice(64, 5, replace=False).tolist()) for value in base]
    hashes = np.array([*base, *near], np.uint64)
    pairs = {tuple(pair) for pair in candidates.by_hash(hashes, np.arange(400), np.arange(400)).tolist()}
    assert {(k, k + 200) for k in range(200)} <= pairs
    assert len(pairs) < 400, "random hashes must not all be proposed"


def test_blank_frames_propose_nothing() -> None:
    assert len(candidates.by_hash(np.zeros(50, np.uint64), np.arange(50), np.arange(50))) == 0


def test_a_crowded_bucket_stays_small_and_everyone_meets_the_best() -> None:
    count = 2_000
    rank = np.random.default_rng(1).permutation(count)
    pairs = candidates.by_hash(np.full(count, 0xABCDEF, np.uint64), np.arange(count), rank)
    assert len(pairs) <= count * candidates.MOST_PER_BUCKET
    best = int(np.flatnonzero(rank == 0)[0])
    assert (pairs == best).any(axis=1).sum() == count - 1


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def planted(count: int, width: int, seed: int) -> np.ndarray:
    """Unit vectors in loose clusters, every tenth nearly equal to the one before it."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(40, width))
    vectors = centres[draw.integers(40, size=count)] + draw.normal(size=(count, width))
    copied = np.arange(9, count, 10)
    vectors[copied] = vectors[copied - 1] + 0.1 * draw.normal(size=(len(copied), width))
    return unit(vectors)


def brute(vectors: np.ndarray, least: float) -> set[tuple[int, int]]:
    first, second = np.nonzero(np.triu(vectors @ vectors.T >= least, 1))
    return set(zip(first.tolist(), second.tolist(), strict=True))


def test_small_collections_are_compared_exactly() -> None:
    vectors = planted(3_000, 32, 0)
    found = {tuple(pair) for pair in candidates.by_cosine(vectors, 0.9).tolist()}
    assert found == brute(vectors, 0.9)


def test_cells_find_what_brute_force_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "EXACT_BELOW", 512)
    vectors = planted(6_000, 64, 1)
    found = {tuple(pair) for pair in candidates.by_cosine(vectors, 0.95).tolist()}
    expected = brute(vectors, 0.95)
    assert found <= expected
    assert len(found) >= 0.995 * len(expected)


def test_the_nearest_are_kept_when_there_are_too_many() -> None:
    vectors = unit(np.ones((300, 8)) + 0.1 * np.random.default_rng(2).normal(size=(300, 8)))
    pairs = candidates.by_cosine(vectors, 0.9, most=4)
    assert len(pairs) <= 300 * 4
    cosines = vectors @ vectors.T - 2 * np.eye(300)
    nearest = {tuple(sorted((row, int(cosines[row].argmax())))) for row in range(300)}
    assert nearest <= {tuple(pair) for pair in pairs.tolist()}


def test_alignment_finds_the_shift_of_a_part() -> None:
    row = np.random.default_rng(3).integers(1, 2**63, 24, dtype=np.uint64)
    found = align(row, row[6:16])
    assert found is not None
    assert (found.bits, found.shift_s, found.frames) == (0.0, 1.5, 10)
    back = align(row[6:16], row)
    assert back is not None and back.shift_s == -1.5
    assert found.contrast > 20


def test_a_short_overlap_counts_where_its_frames_are_all_but_equal() -> None:
    """Half a second of one clip, as where it starts later; one bit more than allowed, or frames that hardly change, don't do."""
    rule = copies.Alignment(copies.EQUAL_BITS, 25.0, 0.5, copies.EQUAL_FRAMES)
    assert copies._sure(rule)
    assert not copies._sure(rule._replace(bits=copies.EQUAL_BITS + 1))
    assert not copies._sure(rule._replace(contrast=copies.FIRM_CONTRAST - 1))
    assert not copies._sure(rule._replace(frames=1))


def test_blank_frames_do_not_align() -> None:
    row = np.random.default_rng(4).integers(1, 2**63, 12, dtype=np.uint64)
    faded = np.where(np.arange(12) < 9, 0, row).astype(np.uint64)
    assert align(np.zeros(8, np.uint64), np.zeros(8, np.uint64)) is None
    assert align(faded, faded) is None or align(faded, faded).frames <= 3  # type: ignore[union-attr]


def test_hashes_are_brought_to_the_grid_by_the_nearest_time() -> None:
    row = np.array([1, 2, 3, 4], np.uint64)
    assert on_grid(np.array([5.0, 5.3, 5.5, 6.0]), row).tolist() == [1, 2, 3, 3, 4]
    assert on_grid(np.array([0.0]), row[:1]).tolist() == [1]


def test_no_chains_whatever_the_matches() -> None:
    draw = np.random.default_rng(5)
    for _ in range(50):
        rank = draw.permutation(30)
        some = [
            copies.Match(int(a), int(b), float(draw.random())) for a, b in draw.integers(30, size=(60, 2)) if a != b
        ]
        direct = {(m.first, m.second) for m in some} | {(m.second, m.first) for m in some}
        dropped = copies.keepers(rank, some)
        for row, (keeper, _) in dropped.items():
            assert keeper not in dropped and (row, keeper) in direct and rank[keeper] < rank[row]
        kept = set(range(30)) - set(dropped)
        assert not any((a, b) in direct for a in kept for b in kept), "two that are kept match each other"


def test_frames_shown_together_are_paired_once() -> None:
    a, b = np.array([0.0, 1.0, 2.0]), np.array([0.1, 0.95, 1.05, 5.0])
    assert copies.shown_together(a, b) == [(0, 0), (1, 1)]
