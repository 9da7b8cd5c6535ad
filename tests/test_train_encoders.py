"""Samples are drawn with the encoders of the cache: its layer, its templates, its precision; and with no more memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import train_workspace

from cache.buckets import Bucket
from cache.networks import text_of
from cache.read import open_cache
from tests.test_text_transformers import TEMPLATE, llama
from train import checkpoint, trained
from train.distributed import World
from train.during import StageSamples
from train.loop import Options, train_stage
from train.sample import _Studio

__all__ = ["llama"]

PROMPTS = ["a red ball", "green grass"]


class Unstopped:
    number = None

    def check(self) -> None:
        pass


def test_prompts_of_a_stage_are_read_as_the_cache_reads_captions(llama: Path, tmp_path: Path) -> None:
    encoders = {"text": str(llama), "text_layer": 2, "template": TEMPLATE, "image_template": "<s> image : {} </s>",
                "precision": "bfloat16", "caption_variants": 2}  # fmt: skip
    recipe = train_workspace.recipe(tmp_path, {"prompts": PROMPTS, "sample_every": 4}, {"cache": encoders})
    plain = train_workspace.fill(train_workspace.recipe(tmp_path))  # only its folder is needed here
    samples = StageSamples(recipe, recipe.stages["s"], open_cache(plain), [], torch.device("cpu"))
    for bucket in (Bucket(1, 64, 64), Bucket(5, 64, 64, 8.0)):
        wanted = text_of(recipe).encode(PROMPTS, image=bucket.frames == 1)
        asked = [text for text, _ in samples._asked(bucket)]
        assert all(torch.equal(one.states, other.states) for one, other in zip(asked, wanted, strict=True))


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory):
    """A recipe whose stage computes in bfloat16, trained for two steps."""
    recipe = train_workspace.recipe(tmp_path_factory.mktemp("narrow"), {"steps": 2, "precision": "bfloat16"})
    train_workspace.fill(recipe)
    train_stage(recipe, "s", World(0, 1, torch.device("cpu")), Unstopped(), Options(workers=1))  # type: ignore[arg-type]
    return recipe


def test_the_sampler_computes_as_the_stage_does(narrow) -> None:
    """Twice the memory and a tenth of the speed otherwise: 52 GB of 13 billion weights."""
    studio = _Studio(narrow, "s", raw=False, device="cpu")
    assert {one.dtype for one in studio.model.parameters()} == {torch.bfloat16}


def test_only_the_weights_that_are_wanted_are_read(narrow) -> None:
    """AdamW's state is twice as large as they are, and nobody samples with it."""
    found = checkpoint.latest(f"{narrow.workspace}/runs/s")
    assert found is not None
    for name in ("optimiser.safetensors", "model.safetensors"):
        file = Path(found.path, name)
        file.write_bytes(file.read_bytes()[:-1] + b"?")  # of the same size, so only a reader notices
    weights = trained.trained(narrow, "s").weights
    model = trained.network(trained.trained(narrow, "s"), "s")
    assert all(torch.equal(one, weights[name]) for name, one in model.named_parameters())
    with pytest.raises(ValueError, match="not the bytes that were written"):
        trained.trained(narrow, "s", raw=True)
