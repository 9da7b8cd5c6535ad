"""Embeddings: unit length, invariances, likeness, fingerprints; the open_clip tower against open_clip itself."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import pipelines
from curate import embed
from curate.descriptor import describe_clip, describe_frame
from curate.embed_clip import load_tower
from tests import copy_films


def test_vectors_have_unit_length_and_clips_keep_their_order() -> None:
    films = {name: copy_films.film(copy_films.pattern(k), "left") for k, name in enumerate("cab")}
    proxies = copy_films.tables(films)["proxies"]
    made = embed.embed(proxies, pipelines.Embed())
    assert made["clip_id"].to_pylist() == ["c", "a", "b"]
    vectors = np.array(made["vector"].to_pylist())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    alone = embed.embed(proxies.slice(1, 1), pipelines.Embed())
    assert alone["vector"][0] == made["vector"][1], "a vector must not depend on other clips"


@pytest.mark.parametrize("change", ["reencoded", "half size", "brighter", "darker", "letterboxed", "cropped"])
def test_copies_are_nearer_than_anything_else(change: str) -> None:
    pictures = [*copy_films.photographs(), *(copy_films.pattern(seed) for seed in range(6))]
    plain = np.stack([describe_clip([picture]) for picture in pictures])
    other = np.stack([describe_clip([copy_films.CHANGES[change](picture)]) for picture in pictures])
    cosines = other @ plain.T
    assert np.diag(cosines).min() > 0.9
    assert (cosines.argmax(1) == np.arange(len(pictures))).all()


def test_a_pan_to_the_left_is_not_a_pan_to_the_right() -> None:
    frames = [rgb for _, rgb in copy_films.film(copy_films.photographs()[0], "left")][::3]
    there, back = describe_clip(frames), describe_clip(frames[::-1])
    assert there @ describe_clip([copy_films.jpeg(rgb, 30) for rgb in frames]) > 0.99
    assert there @ back < 0.95


def test_likeness_beyond_copies() -> None:
    """A mirrored picture, and the same colours in a wider view, are nearer than any other picture."""
    pictures = [*copy_films.photographs(), *(copy_films.pattern(seed) for seed in range(6))]
    plain = np.stack([describe_frame(picture) for picture in pictures])
    for change in (lambda rgb: np.ascontiguousarray(rgb[:, ::-1]), lambda rgb: rgb[:380, :560]):
        other = np.stack([describe_frame(change(picture)) for picture in pictures])
        assert ((other @ plain.T).argmax(1) == np.arange(len(pictures))).mean() >= 0.75  # by chance 1 in 8


def test_flat_and_tiny_frames_have_vectors() -> None:
    for frame in (np.zeros((2, 2, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8), np.zeros((300, 40, 3), np.uint8)):
        vector = describe_clip([frame])
        assert np.isfinite(vector).all() and abs(np.linalg.norm(vector) - 1) < 1e-5
    with pytest.raises(ValueError, match="at least one proxy"):
        describe_clip([])
    with pytest.raises(ValueError, match="RGB uint8"):
        describe_frame(np.zeros((4, 4), np.uint8))


def test_the_golden_vector() -> None:
    """Remade by printing these numbers; a change of them needs a new DESCRIPTOR_VERSION."""
    vector = describe_clip([copy_films.pattern(0), copy_films.pattern(1)])
    assert len(vector) == 662
    np.testing.assert_allclose(vector[[0, 17, 60, 200, 330, 400, 661]], GOLDEN, atol=2e-4)


GOLDEN = [-0.02776, 0.02727, 0.14008, 0.01091, 0.06102, 0.00515, -0.0118]


def test_the_fingerprint_covers_the_model_and_not_the_threshold() -> None:
    plain = embed.embed_settings(pipelines.Embed())
    assert plain == embed.embed_settings(pipelines.Embed(same=0.5))
    assert json.loads(json.dumps(plain)) == plain
    assert {"model", "encode_version", "descriptor_version"} <= set(plain)


def test_matrix_sorts_chooses_and_names_what_is_missing() -> None:
    table = pa.table({"clip_id": ["b", "a", "c"], "vector": [[2.0, 0.0], [1.0, 0.0], [3.0, 0.0]]}, schema=embed.SCHEMA)
    ids, vectors = embed.matrix(table)
    assert ids == ["a", "b", "c"] and vectors[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert embed.matrix(table, ["c", "a"])[1][:, 0].tolist() == [1.0, 3.0]
    with pytest.raises(ValueError, match="the first is x"):
        embed.matrix(table, ["x", "a"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "ViT-B-32"}, "give `embed.pretrained`"),
        ({"model": "ViT-B-33", "pretrained": "openai"}, "knows no model of that name"),
        ({"model": "ViT-B-32", "pretrained": "opemai"}, "no such file; put the weights there, give a tag of ViT-B-32"),
    ],
)
def test_a_missing_weight_is_one_clear_line(settings: dict[str, str], said: str) -> None:
    with pytest.raises(pipelines.RecipeError, match=said) as caught:
        embed.embed_settings(pipelines.Embed(**settings))
    assert "\n" not in str(caught.value)


def test_a_threshold_belongs_to_its_model_unless_the_recipe_gives_one() -> None:
    assert embed.same(pipelines.Embed()) == embed.DESCRIPTOR_SAME
    assert embed.same(pipelines.Embed(model="ViT-B-32", pretrained="openai")) == embed.LEARNED_SAME
    assert embed.same(pipelines.Embed(same=0.5)) == 0.5 and embed.same(pipelines.Embed(same=0.0)) == 0.0


def test_the_descriptors_threshold_lies_between_copies_and_others() -> None:
    pictures = [*copy_films.photographs(), *(copy_films.pattern(seed) for seed in range(6))]
    plain = np.stack([describe_clip([picture]) for picture in pictures])
    for change in ("reencoded", "half size", "brighter"):
        other = np.stack([describe_clip([copy_films.CHANGES[change](picture)]) for picture in pictures])
        cosines = other @ plain.T
        assert np.diag(cosines).min() >= embed.DESCRIPTOR_SAME
        assert cosines[~np.eye(len(pictures), dtype=bool)].max() < embed.DESCRIPTOR_SAME


def test_a_folder_without_weights_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(pipelines.RecipeError, match=r"must hold open_clip_model\.safetensors"):
        embed.embed_settings(pipelines.Embed(model=str(tmp_path)))


def test_the_tower_is_open_clips_own_averaged_over_frames(tiny_clip: Path) -> None:
    import open_clip
    import torch
    from PIL import Image

    settings = pipelines.Embed(model=str(tiny_clip))
    proxies = copy_films.tables({"a": copy_films.film(copy_films.pattern(0), "in")})["proxies"]
    ours = np.array(embed.embed(proxies, settings)["vector"].to_pylist()[0])
    model, prepare = open_clip.create_model_from_pretrained(f"local-dir:{tiny_clip}")
    frames = [Image.open(__import__("io").BytesIO(data)) for data in proxies["jpegs"].to_pylist()[0]]
    with torch.inference_mode():
        each = torch.stack([model.eval().encode_image(prepare(frame)[None])[0] for frame in frames])
    mean = torch.nn.functional.normalize(each, dim=1).mean(0).numpy()
    np.testing.assert_allclose(ours, mean / np.linalg.norm(mean), atol=2e-3)  # JPEG decoders differ by a grey level


def test_a_vector_does_not_depend_on_how_many_threads_there_are(tiny_clip: Path) -> None:
    """On Ray a worker has one, in a process of its own as many as the machine."""
    import torch

    tower, rng = load_tower(pipelines.Embed(model=str(tiny_clip))), np.random.default_rng(0)
    before = torch.get_num_threads()
    try:
        for count in (1, 2, 5, 7):
            frames, vectors = [rng.integers(0, 256, (96, 128, 3), np.uint8) for _ in range(count)], []
            for threads in (1, 2, 4):
                torch.set_num_threads(threads)
                vectors.append(tower(frames))
                assert torch.get_num_threads() == threads
            assert all((vectors[0] == one).all() for one in vectors[1:]), count
    finally:
        torch.set_num_threads(before)


def test_other_weights_are_another_fingerprint(tiny_clip: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(tiny_clip, other)
    same = embed.embed_settings(pipelines.Embed(model=str(other)))["weights"]
    assert same == embed.embed_settings(pipelines.Embed(model=str(tiny_clip)))["weights"]
    data = bytearray((other / "open_clip_model.safetensors").read_bytes())
    data[-1] ^= 1
    (other / "open_clip_model.safetensors").write_bytes(data)
    assert embed.embed_settings(pipelines.Embed(model=str(other)))["weights"] != same
