"""`python -m train.sync --stage 256px-video --out sync.safetensors`: the scorer of the loss `sync`, trained on a cache's clips.

Pictures (decoded from the stage's latents, as the loss sees them) and sound either belong together, or the sound is that
of another time or of another clip. Clips in which nothing is heard are left out.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import torch
import typer
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import commands
import pipelines
from cache.networks import vae_of
from cache.read import LatentCache, Sample, open_cache
from model.devices import best_device
from model.sync import SIDE_PX, SILENT, STEPS, SyncPair, pair_loss
from model.vae import Vae
from train import stages
from train.data import FeedPools, stage_pools
from train.draws import generator
from train.run import Config, Device, Overrides, RecipeName, Workspace

SOUND = "sound"  # of the cache's conditions
JUDGED = 128  # held-out pairs
TOLD_EVERY = 50  # steps
KEPT = 1024  # windows, 0.2 MB each at 17 frames

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Drawn(NamedTuple):
    """A window of a clip, the clip that its sound is taken from, and by how much of the window that is turned."""

    picture: int
    sound: int
    start: int  # first latent frame
    turned: float

    @property
    def together(self) -> bool:
        return self.picture == self.sound and not self.turned


@app.command()
def main(
    stage: Annotated[str, typer.Option("--stage", help="Whose clips: a stage with feeds of video.")],
    out: Annotated[str, typer.Option("--out", help="File to write, for losses.sync_scorer.")],
    steps: Annotated[int, typer.Option("--steps", min=1)] = 300,
    batch: Annotated[int, typer.Option("--batch", min=2, help="Windows per step.")] = 16,
    latents: Annotated[int, typer.Option("--latents", min=2, help="Latent frames of a window: decode_frames.")] = 5,
    lr: Annotated[float, typer.Option("--lr")] = 3e-3,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    recipe: RecipeName = None,
    config: Config = None,
    workspace: Workspace = None,
    overrides: Overrides = None,
    device: Device = None,
) -> int:
    """Train the scorer and say how many held-out pairs it tells apart.

    Example: python -m train.sync --stage 256px-video --out sync.safetensors --set 'cache.conditions=[sound]'
    """
    settings = pipelines.load(config, recipe, tuple(overrides or ()), workspace=workspace)
    stages.stage_of(settings, stage)
    if SOUND not in settings.cache.conditions:
        raise pipelines.RecipeError("cache.conditions: must hold `sound`; encode the clips with it first")
    chosen = best_device(device)
    vae, cache = vae_of(settings, chosen), open_cache(settings)
    feeds = stage_pools(cache, settings.stages[stage], stages.cost_of(settings))
    heard, judged = (sounding(cache, feeds, split) for split in ("train", "val"))
    if len(heard) < 2:
        raise pipelines.RecipeError(
            f"stages.{stage}: two clips in which something is heard are needed, got {len(heard)}"
        )
    print(f"{len(heard)} clips with sound to train on, {len(judged)} held out", flush=True)
    show = Show(vae, chosen)
    pair = train(show, heard, latents, steps, batch, lr, seed)
    share = accuracy(pair, show, judged if len(judged) > 1 else heard, latents)
    held = "held-out" if len(judged) > 1 else "trained-on"
    save(pair, out)
    print(f"{out}: {share:.1%} of {JUDGED} {held} pairs told apart (chance 50 %)", flush=True)
    return 0


def sounding(cache: LatentCache, feeds: Sequence[FeedPools], split: str) -> list[Sample]:
    """The clips of a split in which something is heard, each once."""
    found: dict[tuple[str, int], Sample] = {}
    for feed in feeds:
        for pool in getattr(feed, split):
            for sample in cache.read(pool.bucket, [int(row) for row in pool.rows]):
                if SOUND in sample.conditions and bool((sample.conditions[SOUND] > SILENT).any()):
                    found[sample.clip_id, sample.start_tick] = sample
    return list(found.values())


def train(show: Show, clips: Sequence[Sample], latents: int, steps: int, batch: int, lr: float, seed: int) -> SyncPair:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pair = SyncPair()
    pair.to(show.device)
    optimiser = torch.optim.AdamW(pair.parameters(), lr=lr)
    for step in range(steps):
        drawn = [draw(clips, latents, seed, step, place) for place in range(batch)]
        loss = pair_loss(score(pair, show, clips, drawn, latents), _together(drawn).to(show.device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % TOLD_EVERY == 0 or step + 1 == steps:
            print(f"sync  {step + 1}/{steps}  loss {float(loss.detach()):.4f}", flush=True)
    return pair.eval()


@torch.no_grad()
def accuracy(pair: SyncPair, show: Show, clips: Sequence[Sample], latents: int) -> float:
    """Share of drawn pairs whose cosine has the right sign."""
    drawn = [draw(clips, latents, "judged", place) for place in range(JUDGED)]
    cosines = torch.cat([score(pair, show, clips, drawn[at : at + 16], latents) for at in range(0, JUDGED, 16)])
    return float(((cosines.cpu() > 0) == _together(drawn)).float().mean())


def draw(clips: Sequence[Sample], latents: int, *name: str | int) -> Drawn:
    """Half belong together; of the others half hear another clip, half the same one turned by a quarter to three."""
    chance = generator(*name, "sync")
    picture = int(chance.integers(len(clips)))
    spare = clips[picture].latent.shape[1] - latents
    start = int(chance.integers(spare + 1)) if spare > 0 else 0
    kind = chance.random()
    other = (picture + 1 + int(chance.integers(len(clips) - 1))) % len(clips)
    turned = float(chance.uniform(0.25, 0.75))
    return Drawn(picture, other if kind >= 0.75 else picture, start, turned if 0.5 <= kind < 0.75 else 0.0)


def score(pair: SyncPair, show: Show, clips: Sequence[Sample], drawn: Sequence[Drawn], latents: int) -> Tensor:
    """Cosines (N,) of windows, as long as the shortest clip among them allows."""
    latents = min(latents, *(clips[one].latent.shape[1] for each in drawn for one in (each.picture, each.sound)))
    shown = [show(clips[one.picture], one.start, latents) for one in drawn]
    heard = [_heard(clips[one.sound], one, latents) for one in drawn]
    return pair(torch.cat(shown), torch.stack(heard).to(show.device))


class Show:
    """Pixels (1, 3, T, SIDE_PX, SIDE_PX) of windows: decoded as the loss has them, as small as the scorer looks. The last
    ones are kept, as decoding is nearly all the work."""

    def __init__(self, vae: Vae, device: torch.device):
        self.vae, self.device = vae, device
        self._kept: OrderedDict[tuple[str, int, int, int], Tensor] = OrderedDict()

    def __call__(self, clip: Sample, start: int, latents: int) -> Tensor:
        name = (clip.clip_id, clip.start_tick, start, latents)
        if name not in self._kept:
            self._kept[name] = self._decoded(clip.latent[None, :, start : start + latents])
        self._kept.move_to_end(name)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[name]

    @torch.no_grad()
    def _decoded(self, latents: Tensor) -> Tensor:
        shown = self.vae.decode(latents.float().to(self.device)).float()
        return F.adaptive_avg_pool3d(shown, (shown.shape[2], SIDE_PX, SIDE_PX))


def save(pair: SyncPair, path: str) -> None:
    """Whole or not at all."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    state: dict[str, Any] = {name: one.detach().cpu().contiguous() for name, one in pair.state_dict().items()}
    save_file(state, f"{path}.part")
    os.replace(f"{path}.part", path)


def _heard(clip: Sample, one: Drawn, latents: int) -> Tensor:
    """Sound (bands, steps) of the window that is drawn, of this clip."""
    sound = clip.conditions[SOUND].float()
    first = min(STEPS * 4 * one.start, max(0, sound.shape[1] - STEPS * (4 * latents - 3)))
    window = sound[:, first : first + STEPS * (4 * latents - 3)]
    return window.roll(round(one.turned * window.shape[1]), dims=1)


def _together(drawn: Sequence[Drawn]) -> Tensor:
    return torch.tensor([one.together for one in drawn])


if __name__ == "__main__":
    commands.main(lambda: app(standalone_mode=False))
