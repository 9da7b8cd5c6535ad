"""The text states of a cache: by one process, on all the GPUs that it may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cache.crew import Crew
from cache.encode_text import TextCounts, TextWriter
from cache.fingerprint import cache_folder, latent_settings, text_settings
from cache.networks import text_of
from cache.state import BucketState
from curate.tables import Tables
from model.devices import best_device
from model.text import Several, TextEncoder
from pipelines import Recipe


def make_texts(recipe: Recipe, states: Mapping[str, BucketState], device: str | None, crew: Crew,
               stopping: Callable[[], bool], say: Callable[[str], None]) -> tuple[TextCounts, int]:  # fmt: skip
    """Bring the text states of these buckets into line. Counts, and tars written. After stopping() came true the bucket at
    hand is the last."""
    rows = Tables(recipe).read("captions", ["clip_id", "texts"]).to_pylist()
    captions = {row["clip_id"]: row["texts"] for row in rows}

    def load() -> TextEncoder:
        places = crew.devices(best_device(device))
        return text_of(recipe, places[0]) if len(places) == 1 else Several([text_of(recipe, one) for one in places])

    writer = TextWriter(cache_folder(recipe, latent_settings(recipe)), text_settings(recipe), load, captions, say)
    written = 0
    for name, state in states.items():
        if not stopping():
            written += writer.update(name, state.index())
    return writer.counts, written


def texts_of(
    recipe: Recipe, buckets: Sequence[str], device: str | None, say: Callable[[str], None]
) -> tuple[TextCounts, int]:
    """The same of buckets whose latents are there and indexed, for a process that has nothing else to do with them."""
    folder = cache_folder(recipe, latent_settings(recipe))
    states = {name: BucketState(folder, name, say=None) for name in buckets}
    return make_texts(recipe, states, device, Crew(), lambda: False, say)
