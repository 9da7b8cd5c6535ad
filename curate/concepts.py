"""Concepts: k-means clusters of the clips' vectors, and how often a clip is drawn so that no concept is overfitted.

Centroids are fitted once and frozen: new clips are assigned to them, and old clips keep their concept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

import pipelines
from curate import embed

CONCEPTS_VERSION = 1
BLOCK = 4_096  # rows compared with all centroids at once

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("concept", pa.int32()),
        ("distance", pa.float64()),
        ("duplicate_of", pa.string()),
        ("similarity", pa.float64()),
    ]
)


def fit(embeddings: pa.Table, settings: pipelines.Concepts, copies: pa.Table | None = None) -> np.ndarray:
    """embeddings (clip_id, vector) -> centroids float32 (K, D); K = settings.clusters, or as many as distinct vectors.

    copies (clip_id, duplicate_of): duplicates are left out, so that what was uploaded often makes no concept.
    The same clips in any order give the same centroids. No clip: (0, 0).
    """
    ids, vectors = embed.matrix(embeddings)
    if copies is not None:
        dropped = {clip for clip, keeper in zip(*_columns(copies, "clip_id", "duplicate_of"), strict=True) if keeper}
        vectors = vectors[[clip_id not in dropped for clip_id in ids]]
    if not len(vectors):
        return np.zeros((0, 0), np.float32)
    return _centroids(vectors, settings)


def _centroids(vectors: np.ndarray, settings: pipelines.Concepts) -> np.ndarray:
    from sklearn.cluster import MiniBatchKMeans

    distinct = np.unique(vectors, axis=0)
    if len(distinct) <= settings.clusters:
        return distinct.astype(np.float32)
    settled = {"n_init": 3, "batch_size": 4_096, "max_iter": 100, "reassignment_ratio": 0.01}
    model = MiniBatchKMeans(settings.clusters, random_state=settings.seed, **settled)
    return model.fit(vectors.astype(np.float32)).cluster_centers_.astype(np.float32)


def assign(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (N, D), float32 (K, D) -> nearest concept int32 (N,), Euclidean distance to it float64 (N,)."""
    concept, distance = np.zeros(len(vectors), np.int32), np.zeros(len(vectors), np.float64)
    centres = centroids.astype(np.float64)
    for start in range(0, len(vectors), BLOCK):
        rows = vectors[start : start + BLOCK].astype(np.float64)
        squared = (rows**2).sum(1)[:, None] - 2 * rows @ centres.T + (centres**2).sum(1)[None, :]
        concept[start : start + BLOCK] = squared.argmin(1)
        distance[start : start + BLOCK] = np.sqrt(np.maximum(squared.min(1), 0.0))
    return concept, distance


def table(embeddings: pa.Table, centroids: np.ndarray, copies: pa.Table) -> pa.Table:
    """The table `concepts`: (clip_id, concept, distance, duplicate_of, similarity) of every embedded clip, by clip_id.

    Raises ValueError where copies and embeddings are not about the same clips.
    """
    ids, vectors = embed.matrix(embeddings)
    ordered = copies.sort_by("clip_id")
    if ordered["clip_id"].to_pylist() != ids:
        raise ValueError(f"copies must be about the {len(ids)} embedded clips, got {len(ordered)} rows of other clips")
    concept, distance = assign(vectors, centroids)
    return pa.table(
        {
            "clip_id": ids,
            "concept": concept,
            "distance": distance,
            "duplicate_of": ordered["duplicate_of"],
            "similarity": ordered["similarity"],
        },
        schema=SCHEMA,
    )


def weights(concept: np.ndarray, law: str) -> np.ndarray:
    """Concepts (N,) of the kept clips of one set -> weights float64 (N,) with mean 1: the expected draws per epoch.

    With n clips in a concept, a clip's weight goes as
      inverse_sqrt: 1 / sqrt(n), the law of MovieGen: big concepts still weigh more, but less than their size;
      uniform: 1 / n, every concept is drawn equally often;
      capped: min(1, c / n), c the mean size: no concept is drawn as more than c clips.
    """
    if not len(concept):
        return np.zeros(0)
    _, index, sizes = np.unique(concept, return_inverse=True, return_counts=True)
    n = sizes[index].astype(np.float64)
    laws = {"inverse_sqrt": n**-0.5, "uniform": 1.0 / n, "capped": np.minimum(1.0, sizes.mean() / n)}
    if law not in laws:
        raise ValueError(f"law must be one of {', '.join(laws)}, got '{law}'")
    return laws[law] / laws[law].mean()


def entropy(concept: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Entropy in bits of concepts (N,), drawn with weights (N,) or once each: 0 is one concept, log2(K) is even."""
    if not len(concept):
        return 0.0
    _, index = np.unique(concept, return_inverse=True)
    mass = np.bincount(index, weights=weight)
    share = mass[mass > 0] / mass.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0


def concepts_settings(settings: pipelines.Concepts, same: float) -> dict[str, Any]:
    """What changes a row of the table `concepts`, beside embeddings and hashes. The law changes ledgers only."""
    from curate.copies import COPIES_VERSION

    return {
        "clusters": settings.clusters,
        "seed": settings.seed,
        "same": same,
        "copies_version": COPIES_VERSION,
        "concepts_version": CONCEPTS_VERSION,
    }


def _columns(table: pa.Table, *names: str) -> tuple[list[Any], ...]:
    return tuple(table[name].to_pylist() for name in names)
