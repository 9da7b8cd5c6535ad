"""Histograms of every score, with the bounds of the sets drawn in."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import pipelines
from curate import select

COLUMNS = 4


def scores_png(recipe: pipelines.Recipe, facts: pa.Table) -> bytes:
    """A small histogram per score that any clip has, as one PNG. Only usable clips count."""
    usable = facts.filter(pc.equal(facts["status"], "ok"))
    found = {name: select.numbers(usable, name) for name in pipelines.SCORES}
    found = {name: values[np.isfinite(values)] for name, values in found.items() if np.isfinite(values).any()}
    return _drawn(recipe, found)


def _drawn(recipe: pipelines.Recipe, found: dict[str, np.ndarray]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(1, -(-len(found) // COLUMNS))
    figure = Figure(figsize=(3 * COLUMNS, 2 * rows), layout="constrained")
    for place, (name, values) in enumerate(found.items()):
        axes = figure.add_subplot(rows, COLUMNS, place + 1)
        axes.hist(values, bins=30 if np.ptp(values) > 1e-6 * np.abs(values).max() else 1, color="#7a9cc6")
        axes.set_title(name, fontsize=9, loc="left")
        axes.tick_params(labelsize=7)
        for limit in sorted(limits(recipe, name)):
            axes.axvline(limit, color="#c2452d", linewidth=1)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def limits(recipe: pipelines.Recipe, score: str) -> set[float]:
    """Every bound that some set puts on a score."""
    bounds = [recipe.bounds(name).get(score) for name in recipe.sets]
    return {value for b in bounds if b for value in (b.min, b.max) if value is not None}
