"""Concepts: against scikit-learn, frozen assignment, the laws in closed form, entropy."""

import numpy as np
import pyarrow as pa
import pytest

import pipelines
from curate import concepts, embed


def embeddings(vectors: np.ndarray) -> pa.Table:
    ids = [f"{row:04d}" for row in range(len(vectors))]
    return pa.table({"clip_id": ids, "vector": vectors.astype(np.float32).tolist()}, schema=embed.SCHEMA)


def clusters(seed: int = 0, each: int = 60) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    centres = np.eye(5, 16) * 10
    label = np.repeat(np.arange(5), each)
    return centres[label] + draw.normal(0, 0.3, (len(label), 16)), label


def test_separate_clusters_are_found_as_they_are() -> None:
    from sklearn.metrics import adjusted_rand_score

    vectors, label = clusters()
    centroids = concepts.fit(embeddings(vectors), pipelines.Concepts(clusters=5))
    assert centroids.shape == (5, 16) and centroids.dtype == np.float32
    assert adjusted_rand_score(label, concepts.assign(vectors, centroids)[0]) == 1.0


def test_assignment_is_scikit_learns() -> None:
    from sklearn.metrics import pairwise_distances_argmin_min

    vectors, _ = clusters(1)
    centroids = np.random.default_rng(2).normal(size=(7, 16)).astype(np.float32)
    concept, distance = concepts.assign(vectors, centroids)
    expected, far = pairwise_distances_argmin_min(vectors, centroids.astype(np.float64))
    np.testing.assert_array_equal(concept, expected)
    np.testing.assert_allclose(distance, far, rtol=1e-9)


def test_the_order_of_rows_does_not_matter_and_duplicates_are_left_out() -> None:
    vectors, _ = clusters()
    table = embeddings(vectors)
    settings = pipelines.Concepts(clusters=5)
    shuffled = table.take(np.random.default_rng(3).permutation(len(table)))
    np.testing.assert_array_equal(concepts.fit(table, settings), concepts.fit(shuffled, settings))
    extra = pa.concat_tables([table, pa.table({"clip_id": ["zz"], "vector": [[99.0] * 16]}, schema=embed.SCHEMA)])
    copies = pa.table({"clip_id": ["zz"], "duplicate_of": ["0000"]})
    np.testing.assert_array_equal(concepts.fit(extra, settings, copies), concepts.fit(table, settings))


def test_no_more_concepts_than_distinct_clips() -> None:
    settings = pipelines.Concepts(clusters=16)
    vectors = np.repeat(np.eye(3), 4, axis=0)
    assert len(concepts.fit(embeddings(vectors), settings)) == 3
    assert len(concepts.fit(embeddings(np.zeros((0, 1))), settings)) == 0


def test_frozen_centroids_keep_old_clips_where_they_are() -> None:
    vectors, _ = clusters()
    centroids = concepts.fit(embeddings(vectors[::2]), pipelines.Concepts(clusters=5))
    before = concepts.assign(vectors[::2], centroids)[0]
    np.testing.assert_array_equal(concepts.assign(vectors, centroids)[0][::2], before)


def test_the_table_holds_every_clip_and_refuses_others() -> None:
    vectors, _ = clusters(each=2)
    table = embeddings(vectors)
    none = pa.nulls(len(table))
    copies = pa.table({"clip_id": table["clip_id"], "duplicate_of": none, "similarity": none})
    made = concepts.table(table, concepts.fit(table, pipelines.Concepts()), copies)
    assert made.schema == concepts.SCHEMA and len(made) == len(table)
    with pytest.raises(ValueError, match="must be about"):
        concepts.table(table, np.zeros((1, 16), np.float32), copies.slice(1))


@pytest.mark.parametrize(
    ("law", "share"),
    [
        ("inverse_sqrt", np.array([3.0, 2.0, 1.0]) / 6),  # n / sqrt(n) of sizes 9, 4, 1
        ("uniform", np.array([1.0, 1.0, 1.0]) / 3),
        ("capped", np.array([14 / 3, 4.0, 1.0]) / (14 / 3 + 5)),  # mean size 14 / 3
    ],
)
def test_laws_in_closed_form(law: str, share: np.ndarray) -> None:
    concept = np.repeat([5, 2, 8], [9, 4, 1])
    weight = concepts.weights(concept, law)
    assert weight.mean() == pytest.approx(1.0)
    drawn = np.array([weight[concept == one].sum() for one in (5, 2, 8)]) / weight.sum()
    np.testing.assert_allclose(drawn, share)
    shuffled = np.random.default_rng(0).permutation(len(concept))
    np.testing.assert_allclose(concepts.weights(concept[shuffled], law), weight[shuffled])


def test_equal_concepts_have_equal_weights() -> None:
    for law in ("inverse_sqrt", "uniform", "capped"):
        np.testing.assert_allclose(concepts.weights(np.repeat([0, 1], 4), law), 1.0)
        assert len(concepts.weights(np.zeros(0), law)) == 0
    with pytest.raises(ValueError, match="law must be one of"):
        concepts.weights(np.zeros(3), "none")


def test_entropy_against_scipy_and_its_limits() -> None:
    from scipy.stats import entropy

    draw = np.random.default_rng(1)
    concept, weight = draw.integers(6, size=50), draw.random(50)
    mass = [weight[concept == one].sum() for one in range(6)]
    assert concepts.entropy(concept, weight) == pytest.approx(entropy(mass, base=2))
    assert concepts.entropy(np.zeros(9)) == 0.0 and concepts.entropy(np.zeros(0)) == 0.0
    assert concepts.entropy(np.arange(8)) == pytest.approx(3.0)
    skewed = np.repeat([0, 1, 2], [90, 9, 1])
    assert concepts.entropy(skewed, concepts.weights(skewed, "inverse_sqrt")) > concepts.entropy(skewed)
    assert concepts.entropy(skewed, concepts.weights(skewed, "uniform")) == pytest.approx(np.log2(3))
