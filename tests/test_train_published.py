"""Published weights as a start: diffusers' folders, ComfyUI's and the released names; networks that embed their guidance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import train_workspace
from safetensors.torch import save_file

from cache.read import open_cache
from compat import mend_torchvision
from model.comfyui import to_comfyui
from model.convert import diffusers_config, from_diffusers
from model.published import Converted, read_published
from model.sizes import SIZES
from model.text import TextStates
from pipelines import Recipe, RecipeError
from tests.test_train_encoders import Unstopped
from train import checkpoint, generate, metrics, stages
from train.distributed import World
from train.loop import Options, train_stage

ALONE = World(0, 1, torch.device("cpu"))
GUIDED = SIZES["tiny"] | {"guidance": True}


@pytest.fixture(autouse=True)
def guided_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny-guidance", GUIDED)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return train_workspace.fill(train_workspace.recipe(tmp_path_factory.mktemp("published")))


@pytest.fixture(scope="module")
def theirs(workspace: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A pipeline's folder as diffusers saves it, in several files; and its weights under our names."""
    mend_torchvision()
    from diffusers import HunyuanVideoTransformer3DModel

    widths = stages.widths_of(open_cache(workspace).settings)
    size = GUIDED | {"in_channels": widths.channels, "out_channels": widths.channels}
    size |= {"text_width": widths.text, "pooled_width": widths.pooled}
    torch.manual_seed(0)
    model = HunyuanVideoTransformer3DModel(**diffusers_config(size))
    folder = tmp_path_factory.mktemp("theirs")
    model.save_pretrained(folder / "transformer", max_shard_size="2MB")
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 2
    return folder, from_diffusers(dict(model.state_dict()))


def same(one, other) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in other)


def test_the_same_weights_in_every_form(theirs, tmp_path: Path) -> None:
    folder, weights = theirs
    found = read_published(str(folder))
    assert isinstance(found, Converted) and len(found) == len(weights) and same(found, weights)
    assert found.shapes == {name: tuple(one.shape) for name, one in weights.items()}
    save_file(weights, tmp_path / "model.safetensors")
    save_file(to_comfyui(weights), tmp_path / "comfyui.safetensors")
    assert same(read_published(str(tmp_path)), weights)
    assert same(read_published(str(tmp_path / "comfyui.safetensors")), weights)


def trained(workspace: Recipe, name: str, **stage) -> tuple[Recipe, list[float]]:
    """Two steps of a stage; and their losses."""
    settings = workspace.stages["s"].model_copy(update={"steps": 2, "validate_every": 1000, **stage})
    recipe = workspace.model_copy(update={"model": "tiny-guidance", "stages": {name: settings}})
    train_stage(recipe, name, ALONE, Unstopped(), Options(workers=1))  # type: ignore[arg-type]
    lines = metrics.read(f"{stages.run_folder(recipe, name)}/metrics.jsonl")
    return recipe, [one["loss"] for one in lines if "loss" in one]


def test_a_network_that_embeds_guidance_goes_on_from_published_weights(workspace: Recipe, theirs) -> None:
    folder, weights = theirs
    recipe, losses = trained(workspace, "one", start=str(folder), warmup_steps=1000)
    found = checkpoint.latest(stages.run_folder(recipe, "one"))
    assert found is not None
    learnt = checkpoint.load(found)["model"]
    assert all(torch.allclose(one, weights[name], atol=1e-4) for name, one in learnt.items()) and len(losses) == 2
    moved = {name.split(".")[0] for name, one in learnt.items() if not torch.equal(one, weights[name])}
    assert "guidance_in" in moved
    _, others = trained(workspace, "six", start=str(folder), warmup_steps=1000, embedded_guidance=6.0)
    assert losses != others


def test_it_is_told_its_guidance_and_asked_once() -> None:
    asked = []

    class Model(torch.nn.Module):
        in_channels, guidance_in = 1, object()

        def forward(self, x, t, text, mask, pooled, guidance):
            asked.append(guidance.tolist())
            return x * 0 + guidance.view(-1, 1, 1, 1, 1) / 1000

    text, noise = [TextStates(torch.ones(3, 2), torch.ones(2))], torch.zeros(1, 1, 1, 2, 2)
    assert generate.latents(Model(), text, noise, 2, 6.0, 1.0).flatten().tolist() == [-6.0] * 4
    assert asked == [[6000.0]] * 2


def test_weights_that_cannot_be_a_start_are_told_with_what_would_be(workspace: Recipe, theirs, tmp_path: Path) -> None:
    plain = workspace.model_copy(update={"model": "tiny"})
    (tmp_path / "weights.pt").write_bytes(b"")
    for start, words in (
        (str(theirs[0]), r"guidance_in.*not known; one of the two embeds guidance: see `model:`"),
        (str(tmp_path / "weights.pt"), "pickled weights are not read"),
        (str(tmp_path), r"no stage, and no weights at .*model.safetensors or diffusion_pytorch_model"),
    ):
        stage = workspace.stages["s"].model_copy(update={"start": start})
        with pytest.raises(RecipeError, match=words):
            train_stage(plain.model_copy(update={"stages": {"w": stage}}), "w", ALONE, Unstopped(), Options(workers=1))  # type: ignore[arg-type]
