"""Semantic near-duplicates: cells against all pairs by brute force (numpy, and FAISS flat where it is installed).

    python -m benchmarks.dedup [--count 20000] [--count 100000] [--count 1000000] [--width 512] [--json out.json]

The vectors are made: 200 loose clusters of unit vectors, and near-duplicates (cosine about 0.98) of one in ten. What is
reported beside the speed is which share of the pairs above the threshold the cells do not find, and how much memory
each way takes at its peak beside the vectors. Seconds are CPU seconds: other work on the machine does not stretch them.
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
BRUTE_PAIRS = 4e9  # brute force over more is timed on a part of the queries and scaled: its time is linear in them
MADE_AT_ONCE = 50_000


def made_vectors(count: int, width: int, seed: int = 0) -> np.ndarray:
    """Unit vectors float32 (count, width)."""
    draw = np.random.default_rng([seed, count, width])
    centres = draw.normal(size=(200, width)).astype(np.float32)
    vectors = centres[draw.integers(200, size=count)]
    for start in range(0, count, MADE_AT_ONCE):
        part = vectors[start : start + MADE_AT_ONCE]
        part += draw.normal(size=part.shape).astype(np.float32)
    copied = np.arange(9, count, 10)
    vectors[copied] = vectors[copied - 1] + 0.28 * draw.normal(size=(len(copied), width)).astype(np.float32)
    vectors = vectors[draw.permutation(count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


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


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, CPU seconds, and MB of memory at its peak beside what was there before."""
    before, started = _memory(reset=True), time.process_time()
    given = work()
    return given, time.process_time() - started, _memory() - before


def _memory(reset: bool = False) -> float:
    """MB: resident now and as peak from now on, or the peak since. Linux only; NaN elsewhere."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    except OSError:
        return float("nan")
    return int(status["VmRSS" if reset else "VmHWM"].split()[0]) / 1024


def measure(count: int, width: int, brute_force: bool) -> list[dict[str, Any]]:
    vectors = made_vectors(count, width)
    queries = np.arange(min(count, int(BRUTE_PAIRS / count)))
    pairs, seconds, beside = timed(lambda: candidates.by_cosine(vectors, LEAST))
    found = {tuple(pair) for pair in pairs.tolist()}
    rows = [
        {
            "method": "cells",
            "count": count,
            "seconds": seconds,
            "beside_mb": beside,
            "pairs": len(found),
            "missed": None,
        }
    ]
    references = {"numpy flat": brute_numpy} if brute_force else {}
    references |= {"FAISS flat": brute_faiss} if has_faiss() else {}
    for name, brute in references.items():
        expected, part, beside = timed(lambda brute=brute: brute(vectors, queries))
        rows.append({"method": name, "count": count, "seconds": part * count / len(queries), "beside_mb": beside,
                     "pairs": len(expected), "queries": len(queries)})  # fmt: skip
        rows[0]["missed"] = len(expected - found) / max(len(expected), 1)
    return [row | {"width": width, "vectors_per_s": row["count"] / row["seconds"]} for row in rows]


def has_faiss() -> bool:
    import importlib.util

    return importlib.util.find_spec("faiss") is not None


def show(rows: list[dict[str, Any]]) -> None:
    print(f"threads {os.environ.get('OMP_NUM_THREADS', os.cpu_count())}, cosine >= {LEAST}")
    print(
        f"{'method':<12}{'vectors':>10}{'width':>7}{'CPU s':>10}{'vectors/s':>12}{'MB beside':>11}{'pairs':>9}{'missed':>9}"
    )
    for row in rows:
        missed = "" if row.get("missed") is None else f"{row['missed']:.4%}"
        print(f"{row['method']:<12}{row['count']:>10}{row['width']:>7}{row['seconds']:>10.1f}"
              f"{row['vectors_per_s']:>12.0f}{row['beside_mb']:>11.0f}{row['pairs']:>9}{missed:>9}")  # fmt: skip
    print("missed: share of the pairs found by brute force (over its queries) that the cells did not propose")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, action="append", help="vectors; may be repeated (20000 and 100000)")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--no-brute", action="store_true", help="leave out numpy's brute force")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = [
        row for count in given.count or (20_000, 100_000) for row in measure(count, given.width, not given.no_brute)
    ]
    show(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
