"""Semantic near-duplicates: cells against all pairs by brute force (numpy, and FAISS flat where it is installed).

    python -m benchmarks.dedup [--count 20000] [--count 100000] [--width 512] [--json out.json]

The vectors are made: 200 loose clusters of unit vectors, and near-duplicates (cosine about 0.98) of one in ten. What is
reported beside the speed is which share of the pairs above the threshold the cells do not find.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from curate import candidates

LEAST = 0.95
BRUTE_QUERIES = 20_000  # brute force over more is timed on a part and scaled, as its time is linear in the queries


def made_vectors(count: int, width: int, seed: int = 0) -> np.ndarray:
    """Unit vectors float32 (count, width)."""
    draw = np.random.default_rng([seed, count, width])
    centres = draw.normal(size=(200, width)).astype(np.float32)
    vectors = centres[draw.integers(200, size=count)] + draw.normal(size=(count, width)).astype(np.float32)
    copied = np.arange(9, count, 10)
    vectors[copied] = vectors[copied - 1] + 0.28 * draw.normal(size=(len(copied), width)).astype(np.float32)
    vectors = vectors[draw.permutation(count)]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def brute_numpy(vectors: np.ndarray, queries: np.ndarray) -> set[tuple[int, int]]:
    """Pairs (first < second) of cosine >= LEAST with `first` or `second` among the query rows."""
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(queries), candidates.BLOCK):
        rows = queries[start : start + candidates.BLOCK]
        found = np.argwhere(vectors[rows] @ vectors.T >= LEAST)
        pairs |= {(min(a, b), max(a, b)) for a, b in zip(rows[found[:, 0]].tolist(), found[:, 1].tolist()) if a != b}
    return pairs


def brute_faiss(vectors: np.ndarray, queries: np.ndarray) -> set[tuple[int, int]]:
    import faiss  # pyright: ignore[reportMissingImports]

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    limits, _, other = index.range_search(vectors[queries], LEAST)
    first = np.repeat(queries, np.diff(limits.astype(np.int64)))
    return {(min(a, b), max(a, b)) for a, b in zip(first.tolist(), other.tolist()) if a != b}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def measure(count: int, width: int) -> list[dict[str, Any]]:
    vectors = made_vectors(count, width)
    queries = np.arange(min(count, BRUTE_QUERIES))
    pairs, seconds = timed(lambda: candidates.by_cosine(vectors, LEAST))
    found = {tuple(pair) for pair in pairs.tolist()}
    rows = [{"method": "cells", "count": count, "seconds": seconds, "pairs": len(found), "missed": None}]
    references = {"numpy flat": brute_numpy} | ({"FAISS flat": brute_faiss} if has_faiss() else {})
    for name, brute in references.items():
        expected, part = timed(lambda brute=brute: brute(vectors, queries))
        rows.append({"method": name, "count": count, "seconds": part * count / len(queries), "pairs": len(expected)})
        rows[0]["missed"] = len(expected - found) / max(len(expected), 1)
    return [row | {"width": width, "vectors_per_s": row["count"] / row["seconds"]} for row in rows]


def has_faiss() -> bool:
    import importlib.util

    return importlib.util.find_spec("faiss") is not None


def show(rows: list[dict[str, Any]]) -> None:
    print(f"threads {os.environ.get('OMP_NUM_THREADS', os.cpu_count())}, cosine >= {LEAST}")
    print(f"{'method':<12}{'vectors':>10}{'width':>7}{'seconds':>10}{'vectors/s':>12}{'pairs':>9}{'missed':>9}")
    for row in rows:
        missed = "" if row.get("missed") is None else f"{row['missed']:.4%}"
        print(f"{row['method']:<12}{row['count']:>10}{row['width']:>7}{row['seconds']:>10.2f}"
              f"{row['vectors_per_s']:>12.0f}{row['pairs']:>9}{missed:>9}")  # fmt: skip
    print("missed: share of the pairs found by brute force (over its queries) that the cells did not propose")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, action="append", help="vectors; may be repeated (20000 and 100000)")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = [row for count in given.count or (20_000, 100_000) for row in measure(count, given.width)]
    show(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
