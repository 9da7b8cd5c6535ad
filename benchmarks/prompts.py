"""Do samples depend on their prompt? A trained stage draws the captions of its training concepts, and each sample is given
to the concept whose training pictures it resembles most, by the built-in descriptor (curate/descriptor.py).

    python -m benchmarks.prompts --stage 256px                      # of the demo, after `make demo`
    python -m benchmarks.prompts --train 1200 --picture docs/pictures/prompts.jpg   # its pictures alone, for longer

Concepts are those that `curate` found; one is judged by if some caption of its training clips is of that concept alone
(a caption that several concepts share names none of them). Prompts are such captions, samples are drawn from noise in
the shape of the caption's clip. Descriptors of training pictures are taken after the cache's VAE, as those of samples
are. Top-1 is the share of samples whose nearest concept is their prompt's; chance is 1 / concepts; the bound is what
the training pictures themselves reach, each left out of its own concept's mean. `shuffled` gives each sample another
concept's prompt as its truth: what top-1 would be if prompts were not looked at.

With --train the stage is trained anew for so many steps, on its feeds of pictures, in a folder of its own: --folder, where
the same command goes on, or a temporary one. The workspace is only read.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

import commands
import pipelines
from cache.buckets import Bucket
from cache.read import LatentCache, open_cache
from curate.descriptor import describe_clip
from curate.tables import Tables
from media.write import write_png
from model.text import TextStates
from model.vae import Vae, load_vae
from train import flow, loop, stages, trained
from train.distributed import World
from train.generate import latents, noise_of, pixels

SHOWN_PX, GAP_PX = 72, 4
LEAST = 2  # training clips of a concept that is judged by


class Clip(NamedTuple):
    clip_id: str
    concept: int
    caption: str
    bucket: str
    picture: np.ndarray  # uint8 (H, W, 3)
    vector: np.ndarray  # (D,), unit length
    text: TextStates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default="256px")
    parser.add_argument("--recipe")
    parser.add_argument("--workspace")
    parser.add_argument("--train", type=int, help="steps to train for, of the stage's pictures alone")
    parser.add_argument("--folder", help="for what --train makes")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0, 6.0])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--prompts", type=int, default=2, help="captions per concept")
    parser.add_argument("--seeds", type=int, default=2, help="samples per caption")
    parser.add_argument("--seed", type=int, default=0, help="of the first sample's noise; with --train of the run too")
    parser.add_argument("--raw", action="store_true", help="the weights themselves, not their average")
    parser.add_argument("--out", help="folder for a picture per guidance")
    parser.add_argument("--picture", help="file (.jpg) for the picture of the guidance with the most hits")
    parser.add_argument("--json", help="file to write the figures to")
    given = parser.parse_args()
    recipe = pipelines.load(None, given.recipe, (), workspace=given.workspace)
    with tempfile.TemporaryDirectory(prefix="dailies-prompts-") as temporary:
        judge(given, recipe if given.train is None else train(given, recipe, Path(given.folder or temporary)))


def judge(given: argparse.Namespace, recipe: pipelines.Recipe) -> None:
    found = trained.trained(recipe, given.stage, given.raw)
    model = trained.network(found, given.stage).eval()
    vae = load_vae(found.recipe.cache.vae)
    clips = training_clips(found.recipe, given.stage, open_cache(found.recipe), vae)
    chosen = prompts(clips, given.prompts)
    names = sorted(chosen)
    means = np.stack([mean(clips, name) for name in names])
    print(f"{recipe.name} {given.stage}, step {found.step}: {len(clips)} training pictures, {len(names)} concepts with a "
          f"caption of their own, {sum(map(len, chosen.values())) * given.seeds} samples; chance {1 / len(names):.1%}, "
          f"bound {bound(clips, names):.1%}\n")  # fmt: skip
    print(f"{'guidance':>8}{'top-1':>8}{'shuffled':>10}{'concepts hit':>14}")
    rows, sheets = [], []
    for guidance in given.guidance:
        row, shown = _row(guidance, model, vae, found, chosen, means, given, clips)
        rows.append(row)
        sheets.append(shown)
    if given.picture:
        best = max(range(len(rows)), key=lambda k: rows[k]["top1"])
        write_jpeg(given.picture, sheets[best])
    if given.json:
        Path(given.json).write_text(json.dumps({
            "step": found.step, "concepts": len(names), "chance": 1 / len(names), "bound": bound(clips, names),
            "rows": rows,
        }, indent=1))  # fmt: skip


def train(given: argparse.Namespace, recipe: pipelines.Recipe, folder: Path) -> pipelines.Recipe:
    """The recipe in a workspace with the tables and the cache of the given one and a run of its own, trained."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for one in Path(recipe.workspace).resolve().iterdir():
        if one.name != "runs" and not (folder / one.name).exists():
            (folder / one.name).symlink_to(one)
    plain: dict[str, Any] = pipelines.resolved(recipe) | {"workspace": str(folder)}
    stage = plain["stages"][given.stage]
    feeds = [one for one in stage["feeds"] if plain["views"][one["view"]]["frames"] == 1]
    changes = {"feeds": feeds, "steps": given.train, "sample_every": None, "seed": given.seed}
    own = pipelines.check(plain | {"stages": {given.stage: stage | changes}})
    if not stages.complete(own, given.stage):
        loop.train_stage(own, given.stage, World(0, 1, torch.device("cpu")), commands.Stop(), loop.Options())
    return own


def _row(
    guidance: float, model: Any, vae: Vae, found: trained.Trained, chosen: dict[int, list[Clip]], means: np.ndarray,
    given: argparse.Namespace, clips: list[Clip],
) -> tuple[dict[str, Any], np.ndarray]:  # fmt: skip
    """The figures of one guidance, and the pictures."""
    names, rows, truth, told = sorted(chosen), [], [], []
    rule = found.recipe.stages[given.stage].flow
    seeds = range(given.seed, given.seed + given.seeds)
    for place, name in enumerate(names):
        drawn = [[draw(model, vae, clip, guidance, given.steps, rule, seed) for seed in seeds] for clip in chosen[name]]
        rows.append([[clip.picture, *made] for clip, made in zip(chosen[name], drawn)])
        made = [one for of_clip in drawn for one in of_clip]
        truth += [place] * len(made)
        told += [int(np.argmax(means @ describe_clip([one]))) for one in made]
    hit = np.array(truth) == np.array(told)
    shuffled = np.mean([np.mean((np.array(truth) + k) % len(names) == np.array(told)) for k in range(1, len(names))])
    hits = len({place for place, good in zip(truth, hit) if good})
    print(f"{guidance:>8g}{hit.mean():>8.1%}{shuffled:>10.1%}{f'{hits} of {len(names)}':>14}", flush=True)
    if given.out:
        Path(given.out).mkdir(parents=True, exist_ok=True)
        write_png(str(Path(given.out) / f"prompts-{given.stage}-guidance{guidance:g}.png"), sheet(rows))
    figures = {"guidance": guidance, "top1": float(hit.mean()), "shuffled": float(shuffled), "concepts_hit": hits,
               "samples": len(hit)}  # fmt: skip
    return figures, sheet(rows)


def write_jpeg(path: str, picture: np.ndarray) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(path, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])


def training_clips(recipe: pipelines.Recipe, stage: str, cache: LatentCache, vae: Vae) -> list[Clip]:
    """The training pictures of the stage's image feed, decoded from the cache."""
    feed = next(one for one in recipe.stages[stage].feeds if recipe.views[one.view].frames == 1)
    tables = Tables(recipe)
    concepts = {row["clip_id"]: row["concept"] for row in tables.read("concepts").to_pylist()}
    captions = {row["clip_id"]: row["texts"][0] for row in tables.read("captions").to_pylist() if row["texts"]}
    train = {row["clip_id"] for row in cache.ledger(feed.set).to_pylist() if row["split"] == "train"}
    places = {row["clip_id"]: row["bucket"] for row in cache.view(feed.view).to_pylist() if row["bucket"]}
    found = []
    for bucket in sorted({places[one] for one in train & places.keys()}):
        index = {clip: row for row, clip in enumerate(cache.index(bucket)["clip_id"].to_pylist())}
        for clip in sorted(train & index.keys()):
            if concepts.get(clip) is None or clip not in captions:
                continue
            sample = cache.read(bucket, [index[clip]])[0]
            picture = pixels(vae, sample.latent[None].float())[0][0]
            found.append(Clip(clip, int(concepts[clip]), captions[clip], bucket, picture, describe_clip([picture]),
                              sample.texts[0]))  # fmt: skip
    return found


def prompts(clips: list[Clip], count: int) -> dict[int, list[Clip]]:
    """Of each concept up to `count` clips with different captions that no other concept has, nearest its mean first."""
    having = defaultdict(set)
    for clip in clips:
        having[clip.caption].add(clip.concept)
    chosen: dict[int, list[Clip]] = {}
    for name in sorted({clip.concept for clip in clips}):
        mine = [clip for clip in clips if clip.concept == name]
        own = [clip for clip in mine if len(having[clip.caption]) == 1]
        if len(mine) < LEAST or not own:
            continue
        own.sort(key=lambda clip: (-float(clip.vector @ mean(clips, name)), clip.clip_id))
        chosen[name] = list({clip.caption: clip for clip in reversed(own)}.values())[::-1][:count]
    return chosen


def mean(clips: list[Clip], concept: int, without: str | None = None) -> np.ndarray:
    """Unit mean (D,) of a concept's training pictures."""
    total = np.mean([clip.vector for clip in clips if clip.concept == concept and clip.clip_id != without], axis=0)
    return total / np.linalg.norm(total)


def bound(clips: list[Clip], names: list[int]) -> float:
    """Top-1 of the training pictures themselves, each left out of its concept's mean."""
    hits = []
    for clip in clips:
        if clip.concept in names:
            means = [mean(clips, name, clip.clip_id if name == clip.concept else None) for name in names]
            hits.append(names[int(np.argmax(np.stack(means) @ clip.vector))] == clip.concept)
    return float(np.mean(hits))


@torch.no_grad()
def draw(model: Any, vae: Vae, clip: Clip, guidance: float, steps: int, rule: pipelines.Flow, seed: int) -> np.ndarray:
    """uint8 (H, W, 3)."""
    bucket = Bucket.parse(clip.bucket)
    noise = noise_of(seed, 0, bucket.latent_shape(vae.channels))[None]
    made = latents(model, [clip.text], noise, steps, guidance, flow.shift_of(rule, bucket.tokens()))
    return pixels(vae, made)[0][0]


def sheet(rows: list[list[list[np.ndarray]]]) -> np.ndarray:
    """A row per concept; of each of its captions the training picture, then the samples."""
    wide = max(len(row) for row in rows) * sum([SHOWN_PX] * len(rows[0][0]) + [3 * GAP_PX])
    return np.concatenate([_padded(np.concatenate([_strip(one) for one in row], axis=1), wide) for row in rows])


def _strip(pictures: list[np.ndarray]) -> np.ndarray:
    cells = [cv2.resize(one, (SHOWN_PX, SHOWN_PX), interpolation=cv2.INTER_AREA) for one in pictures]
    return np.concatenate([cells[0], _white(GAP_PX), *cells[1:], _white(2 * GAP_PX)], axis=1)


def _padded(strip: np.ndarray, wide: int) -> np.ndarray:
    return np.concatenate([strip, _white(wide - strip.shape[1])], axis=1)


def _white(wide: int) -> np.ndarray:
    return np.full((SHOWN_PX, wide, 3), 255, np.uint8)


if __name__ == "__main__":
    main()
