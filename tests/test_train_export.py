"""Exports are loaded back strictly by those they are for; adapters train alone, go on exactly, and lose no key."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import train_workspace
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from test_train_commands import handlers, leave  # noqa: F401 (the fixture gives signal handlers back)

from compat import mend_torchvision
from model.comfyui import from_comfyui
from model.convert import from_diffusers
from model.dit import DiT
from pipelines import load, resolved
from train import checkpoint, export, run, sample, stages, trained

LORA = {"rank": 3, "alpha": 6.0, "targets": ["qkv", "proj", "linear1", "linear2"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Stages `s`, trained whole; `adapt`, adapters on it; `after`, which starts from the adapted network."""
    folder = tmp_path_factory.mktemp("export")
    recipe = train_workspace.fill(train_workspace.recipe(folder, {"steps": 3, "validate_every": 100}))
    plain = {key: value for key, value in resolved(recipe).items() if key != "name"}
    stage = copy.deepcopy(plain["stages"]["s"]) | {"start": None}
    plain["stages"] |= {
        "adapt": stage | {"steps": 6, "lora": LORA, "checkpoint_every": 3},
        "after": copy.deepcopy(stage) | {"steps": 1},
    }
    (folder / "pipelines.yaml").write_text(
        yaml.safe_dump({"default": "test", "recipes": {"test": plain}}, sort_keys=False)
    )
    torch.set_num_threads(1)
    assert leave(run.app, folder) == 0
    return folder


def found(folder: Path, stage: str, raw: bool = False) -> trained.Trained:
    return trained.trained(load(folder / "pipelines.yaml"), stage, raw)


def exported(folder: Path, stage: str, to: str, *more: str) -> Path:
    out = folder / "out" / f"{stage}-{to}{''.join(more)}"
    assert leave(export.app, folder, "--stage", stage, "--to", to, "--out", str(out), *more) == 0
    return out


def reference(folder: Path, stage: str, *more: str) -> Any:
    """diffusers' own class, from the exported folder."""
    mend_torchvision()
    from diffusers import HunyuanVideoTransformer3DModel

    model, told = HunyuanVideoTransformer3DModel.from_pretrained(
        exported(folder, stage, "diffusers", *more), output_loading_info=True
    )
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    return model.eval()


def answers(model: DiT, theirs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(1, 16, 2, 8, 8, generator=generator), torch.randn(1, 5, 640, generator=generator)
    text = text[..., : model.txt_in.input_embedder.in_features]
    t, pooled = torch.tensor([300.0]), torch.randn(1, model.vector_in.in_layer.in_features, generator=generator)
    with torch.no_grad():
        ours = model(x, t, text, None, pooled)
        other = theirs(x, t, text, torch.ones(1, text.shape[1]), pooled, return_dict=False)[0]
    return ours, other


def test_diffusers_loads_the_folder_strictly_and_answers_the_same(folder) -> None:
    theirs, held = reference(folder, "s"), found(folder, "s")
    ours, other = answers(trained.network(held, "s").eval(), theirs)
    assert (ours - other).abs().max() <= 1e-5
    back = from_diffusers(theirs.state_dict())
    assert back.keys() == held.weights.keys() and all(torch.equal(back[name], held.weights[name]) for name in back)


@pytest.mark.parametrize("raw", [False, True])
def test_released_and_comfyui_names_hold_the_same_bits(folder, raw) -> None:
    more, held = ["--raw"] if raw else [], found(folder, "s", raw)
    released = load_file(exported(folder, "s", "hunyuan", *more) / "model.safetensors")
    comfyui = from_comfyui(load_file(exported(folder, "s", "comfyui", *more) / "s.safetensors"))
    for state in (released, comfyui):
        assert state.keys() == held.weights.keys() and all(
            torch.equal(state[name], held.weights[name]) for name in state
        )
        stages.build(stages.size_of(held.recipe), stages.widths_of(held.cache), 5).load_state_dict(state, strict=True)
    with safe_open(exported(folder, "s", "hunyuan") / "model.safetensors", "pt") as file:
        assert file.metadata()["stage"] == "s" and file.metadata()["step"] == "3"


def test_adapters_alone_are_trained_and_kept(folder) -> None:
    kept = checkpoint.latest(str(folder / "runs" / "adapt"))
    assert kept is not None
    tensors = checkpoint.load(kept)
    assert all(name.endswith((".lora_A", ".lora_B")) for name in tensors["model"])
    assert any(one.abs().max() > 0 for name, one in tensors["model"].items() if name.endswith("lora_B"))
    held, before = found(folder, "adapt", raw=True), found(folder, "s", raw=True)
    assert held.base is not None and all(torch.equal(held.base[name], one) for name, one in before.weights.items())
    apart = trained.network(held, "adapt", adapted=True).eval()
    whole = trained.network(held, "adapt").eval()
    given = (torch.randn(1, 16, 1, 8, 8), torch.tensor([500.0]), torch.randn(1, 3, 640), None, torch.randn(1, 128))
    given = (*given[:2], given[2][..., : apart.txt_in.input_embedder.in_features], None,
             given[4][..., : apart.vector_in.in_layer.in_features])  # fmt: skip
    assert (apart(*given) - whole(*given)).abs().max() <= 1e-5


def test_adapters_go_on_exactly(folder) -> None:
    """Stopped at step 3 and gone on, against the run that was never stopped."""
    path = folder / "runs" / "adapt"
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    whole = [one["loss"] for one in lines if "loss" in one]
    last = checkpoint.latest(str(path))
    assert last is not None and last.step == 6
    expected = checkpoint.load(last)
    (Path(last.path)).rename(folder / "set-aside")
    assert leave(run.app, folder, "--stage", "adapt") == 0
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [one["loss"] for one in lines if "loss" in one] == whole
    again = checkpoint.latest(str(path))
    assert again is not None
    for group, tensors in checkpoint.load(again).items():
        assert all(torch.equal(one, expected[group][name]) for name, one in tensors.items()), group


def test_diffusers_loads_the_adapters_without_a_stray_key(folder) -> None:
    pytest.importorskip("peft")
    theirs = reference(folder, "s", "--raw")
    held = found(folder, "adapt")
    state = load_file(exported(folder, "adapt", "diffusers") / "pytorch_lora_weights.safetensors")
    theirs.load_lora_adapter(dict(state), prefix="transformer")
    loaded = {f"transformer.{name.replace('.default_0', '')}" for name in theirs.state_dict() if "lora_" in name}
    assert loaded == set(state)  # none missing, none unexpected
    ours, other = answers(trained.network(held, "adapt").eval(), theirs)
    assert (ours - other).abs().max() <= 1e-5
    merged = reference(folder, "adapt", "--merge")
    assert (answers(trained.network(held, "adapt").eval(), merged)[1] - ours).abs().max() <= 1e-5


def test_comfyui_adapters_name_layers_of_the_released_checkpoint(folder) -> None:
    held = found(folder, "adapt")
    state = load_file(exported(folder, "adapt", "comfyui") / "adapt-lora.safetensors")
    names = {key.removeprefix("diffusion_model.").rsplit(".lora_", 1)[0].removesuffix(".alpha") for key in state}
    assert all(f"{name}.weight" in held.weights for name in names) and len(state) == 3 * len(names)
    released = load_file(exported(folder, "adapt", "hunyuan") / "model.safetensors")
    assert held.base is not None
    for name in names:
        up, down = (state[f"diffusion_model.{name}.lora_{part}.weight"] for part in ("up", "down"))
        change = state[f"diffusion_model.{name}.alpha"] / down.shape[0] * up @ down
        assert torch.allclose(held.base[f"{name}.weight"] + change, released[f"{name}.weight"], atol=1e-6)


def test_the_next_stage_starts_from_the_adapted_network(folder) -> None:
    started = stages.start_weights(load(folder / "pipelines.yaml"), "after")
    held = found(folder, "adapt", raw=True)
    assert started is not None and all(torch.equal(started[name], one) for name, one in held.weights.items())
    assert leave(sample.app, folder, "--stage", "adapt", "--prompt", "a red disc", "--frames", "1", "--steps", "1") == 0


@pytest.mark.parametrize(
    ("app", "arguments", "words"),
    [
        (export.app, ["--stage", "s", "--to", "onnx"], "must be one of diffusers, hunyuan, comfyui, got onnx"),
        (export.app, ["--stage", "x", "--to", "hunyuan"], "no stage 'x'"),
        (export.app, ["--stage", "s", "--to", "hunyuan", "--workspace", "{empty}"], "no checkpoint, run"),
        (
            run.app,
            ["--stage", "adapt", "--fresh", "--set", "stages.adapt.lora.targets=[to_q]"],
            "'to_q' is in no layer",
        ),
        (run.app, ["--stage", "adapt", "--set", "stages.adapt.lora.rank=4"], "lora: "),
    ],
)
def test_mistakes_are_one_clear_line(folder, tmp_path, capsys, app, arguments, words) -> None:
    assert leave(app, folder, *(one.replace("{empty}", str(tmp_path)) for one in arguments)) == 2
    assert words in capsys.readouterr().err
