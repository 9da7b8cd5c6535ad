"""`python -m train.export --stage 256px --to diffusers`: a trained stage as the files that other programs load.

diffusers   a folder for HunyuanVideoTransformer3DModel.from_pretrained; of a `lora:` stage
            pytorch_lora_weights.safetensors for load_lora_adapter / load_lora_weights
hunyuan     model.safetensors under the names of the released checkpoint (adapters merged)
comfyui     one .safetensors for ComfyUI's models/diffusion_models; of a `lora:` stage one for models/loras
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

import commands
import pipelines
from media import storage
from train.run import Config, Overrides, RecipeName, Workspace

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    stage: Annotated[str, typer.Option("--stage", help="The trained stage.")],
    to: Annotated[str, typer.Option("--to", help="diffusers, hunyuan or comfyui.")],
    out: Annotated[str | None, typer.Option("--out", help="Folder; the run's export/<to> if absent.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The weights themselves, not their average.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Of a lora stage: whole weights, adapters added.")] = False,
    recipe: RecipeName = None,
    config: Config = None,
    workspace: Workspace = None,
    overrides: Overrides = None,
) -> int:
    """Write a trained stage for diffusers, the released HunyuanVideo code, or ComfyUI.

    Example: python -m train.export --stage 256px --to diffusers --out exported
    """
    settings = pipelines.load(config, recipe, tuple(overrides or ()), workspace=workspace)
    if to not in WRITERS:
        raise pipelines.RecipeError(f"--to: must be one of {', '.join(WRITERS)}, got {to}")
    from train import stages, trained

    if stage not in settings.stages:
        raise pipelines.RecipeError(f"--stage: no stage '{stage}', there are {', '.join(settings.stages)}")
    found = trained.trained(settings, stage, raw)
    whole, adapters = WRITERS[to]
    folder = out or storage.join(stages.run_folder(settings, stage), "export", to)
    with tempfile.TemporaryDirectory(prefix="dailies-export-") as here:
        if adapters is None or merge or found.adapters is None:
            whole(Path(here), found, stage)
        else:
            adapters(Path(here), found, stage)
        for name in sorted(os.listdir(here)):
            print(_place(os.path.join(here, name), folder, name), flush=True)
    return 0


def _place(local: str, folder: str, name: str) -> str:
    """Put a file there, whole or not at all. Returns its path."""
    path = storage.join(folder, name)
    storage.put(local, path)
    return path


def _notes(found: Any, stage: str) -> dict[str, str]:
    """What a file says of itself."""
    return {"format": "pt", "made_by": "dailies", "recipe": found.recipe.name, "stage": stage, "step": str(found.step)}


def _save(state: dict[str, Any], path: Path, notes: dict[str, str]) -> None:
    from safetensors.torch import save_file

    save_file({name: one.detach().contiguous() for name, one in state.items()}, path, notes)


def _size(found: Any) -> dict[str, Any]:
    from train import stages

    widths, channels = stages.widths_of(found.cache), found.weights["img_in.proj.weight"].shape[1]
    return stages.size_of(found.recipe) | {
        "in_channels": channels, "out_channels": widths.channels, "text_width": widths.text,
        "pooled_width": widths.pooled,
    }  # fmt: skip


def _diffusers(folder: Path, found: Any, stage: str) -> None:
    from model.convert import diffusers_config, to_diffusers

    config = {"_class_name": "HunyuanVideoTransformer3DModel"} | diffusers_config(_size(found))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _save(to_diffusers(found.weights), folder / "diffusion_pytorch_model.safetensors", _notes(found, stage))


def _diffusers_lora(folder: Path, found: Any, stage: str) -> None:
    from model.lora import to_peft
    from train import trained

    state = to_peft(trained.network(found, stage, adapted=True))
    _save(state, folder / "pytorch_lora_weights.safetensors", _notes(found, stage))


def _hunyuan(folder: Path, found: Any, stage: str) -> None:
    _save(found.weights, folder / "model.safetensors", _notes(found, stage))


def _comfyui(folder: Path, found: Any, stage: str) -> None:
    from model.comfyui import to_comfyui

    _save(to_comfyui(found.weights), folder / f"{stage}.safetensors", _notes(found, stage))


def _comfyui_lora(folder: Path, found: Any, stage: str) -> None:
    from model.lora import to_comfyui_lora
    from train import trained

    state = to_comfyui_lora(trained.network(found, stage, adapted=True))
    _save(state, folder / f"{stage}-lora.safetensors", _notes(found, stage))


# How the whole weights are written, and how adapters are; None where there is no form for adapters alone.
WRITERS: dict[str, Any] = {
    "diffusers": (_diffusers, _diffusers_lora),
    "hunyuan": (_hunyuan, None),
    "comfyui": (_comfyui, _comfyui_lora),
}


if __name__ == "__main__":
    commands.main(lambda: app(standalone_mode=False))
