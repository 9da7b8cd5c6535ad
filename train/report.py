"""`python -m train.report --stage 256px`: the run as pictures: loss.png, and report.html with the samples beside it."""

from __future__ import annotations

import html
import os
from typing import Annotated, Any

import typer

import commands
import pipelines
from media import storage
from train.run import Config, Overrides, RecipeName, Workspace

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
SMOOTHING = 0.95
LATEST = 24  # samples shown


@app.command()
def main(
    stage: Annotated[str, typer.Option("--stage", help="The trained stage.")],
    recipe: RecipeName = None,
    config: Config = None,
    workspace: Workspace = None,
    overrides: Overrides = None,
) -> int:
    """Draw a run's losses and gather its samples. Example: python -m train.report --stage 256px"""
    settings = pipelines.load(config, recipe, tuple(overrides or ()), workspace=workspace)
    from train import stages
    from train.folder import RunFolder

    stages.stage_of(settings, stage)
    folder = RunFolder(stages.run_folder(settings, stage))
    path = os.path.join(folder.local, "metrics.jsonl")
    if not os.path.exists(path):
        raise pipelines.RecipeError(f"{folder.path}: no metrics, run `python -m train.run --stage {stage}`")
    from train import metrics

    records = metrics.read(path)
    _draw(stage, records, os.path.join(folder.local, "loss.png"))
    page = _page(stage, records, _samples(folder.local))
    with open(os.path.join(folder.local, "report.html"), "w", encoding="utf-8") as file:
        file.write(page)
    folder.publish()
    print(_summary(stage, records))
    print(f"{storage.join(folder.path, 'loss.png')}\n{storage.join(folder.path, 'report.html')}")
    return 0


def smoothed(values: list[float], keep: float = SMOOTHING) -> list[float]:
    """Exponential moving average, corrected for its start: the first value is itself."""
    found, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        found.append(total / weight)
    return found


def _draw(stage: str, records: list[dict[str, Any]], path: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps, losses = _series(records, "loss")
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(steps, losses, color="#c9d3df", linewidth=0.8, label="training, each step")
    axes.plot(steps, smoothed(losses), color="#1f5fa8", linewidth=1.8, label="training, smoothed")
    for key, label, colour in (("validation", "validation", "#d9822b"),
                               ("validation_average", "validation, averaged weights", "#2c8a4b")):  # fmt: skip
        there = [record for record in records if key in record]
        if there:
            axes.plot([one["step"] for one in there], [one[key]["loss"] for one in there], "o-", color=colour,
                      markersize=3, label=label)  # fmt: skip
    axes.set(xlabel="step", ylabel="velocity loss", title=f"stage {stage}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _series(records: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    there = [record for record in records if key in record]
    return [one["step"] for one in there], [one[key] for one in there]


def _samples(folder: str) -> list[str]:
    """Paths of the samples, relative to the run, newest first."""
    found = [os.path.relpath(one.path, folder) for one in storage.find(os.path.join(folder, "samples"))]
    return sorted((one for one in found if one.endswith((".png", ".mp4"))), reverse=True)[:LATEST]


def _summary(stage: str, records: list[dict[str, Any]]) -> str:
    steps, losses = _series(records, "loss")
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    text = f"{stage}: {steps[-1]} steps, training loss {first:.4f} -> {last:.4f} (first and last tenth)"
    validations = [record for record in records if "validation" in record]
    if validations:
        before, after = validations[0], validations[-1]
        text += (f", validation {before['validation']['loss']:.4f} -> {after['validation']['loss']:.4f}, averaged "
                 f"weights {after['validation_average']['loss']:.4f}")  # fmt: skip
    return text


def _page(stage: str, records: list[dict[str, Any]], samples: list[str]) -> str:
    shown = "\n".join(_figure(path) for path in samples) or "<p>No samples: the stage has no sample_every.</p>"
    return f"""<!doctype html><meta charset="utf-8"><title>{html.escape(stage)}</title>
<style>body{{font:15px system-ui;margin:2em auto;max-width:1100px}}figure{{display:inline-block;margin:8px}}
img,video{{max-width:520px}}figcaption{{color:#667;font-size:13px}}</style>
<h1>Stage {html.escape(stage)}</h1><p>{html.escape(_summary(stage, records))}</p><img src="loss.png" alt="loss">
<h2>Samples</h2>
{shown}
"""


def _figure(path: str) -> str:
    name = html.escape(path)
    if path.endswith(".mp4"):
        shown = f'<video src="{name}" controls loop muted></video>'
    else:
        shown = f'<img src="{name}" alt="{name}">'
    return f"<figure>{shown}<figcaption>{name}</figcaption></figure>"


if __name__ == "__main__":
    commands.main(lambda: app(standalone_mode=False))
