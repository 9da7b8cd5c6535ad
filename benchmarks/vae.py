"""PSNR and SSIM of VAEs and of the built-in codec, side by side on the same clips.

    python -m benchmarks.vae FOOTAGE [--vae codec] [--vae work/demo/runs/vae-256px/vae]

One clip per file, from its middle: the largest centred square, 17 frames (one for an image), at 256 x 256 px; files
whose short side is smaller are left out. PSNR in dB over all frames of a clip; of the clips the median, and the mean
with each counted as at most 50 dB (a black film is no merit). SSIM: the mean.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Annotated, Any

import torch
import typer

from model.similarity import psnr, ssim
from model.vae import load_vae
from train import vae_data
from train.vae_step import frames_of

MOST_DB = 50.0


def measure(spec: str, clips: list[torch.Tensor]) -> dict[str, Any]:
    """Figures of one VAE (`codec` or a diffusers folder) over clips (3, T, S, S) uint8."""
    vae = load_vae(spec)
    rows, began = [], time.monotonic()
    for clip in clips:
        video = vae_data.to_signed(clip[None], torch.device("cpu"))
        made = vae.decode(vae.encode(video)[0]).float().clamp(-1.0, 1.0)
        likeness = float(ssim(frames_of(made), frames_of(video)).mean())
        rows.append((clip.shape[1] > 1, psnr(made, video), likeness))
    seconds = time.monotonic() - began
    found: dict[str, Any] = {"vae": spec, "seconds_per_clip": round(seconds / len(clips), 2)}
    for kind, wanted in (("videos", True), ("images", False)):
        chosen = [row for row in rows if row[0] is wanted]
        if chosen:
            found[kind] = len(chosen)
            found[f"psnr_{kind}_median"] = round(statistics.median(row[1] for row in chosen), 2)
            found[f"psnr_{kind}_mean"] = round(statistics.fmean(min(MOST_DB, row[1]) for row in chosen), 2)
            found[f"ssim_{kind}"] = round(statistics.fmean(row[2] for row in chosen), 4)
    return found


def main(
    footage: list[str],
    vae: Annotated[list[str] | None, typer.Option("--vae", help="A diffusers folder, or `codec`; repeatable.")] = None,
    size: Annotated[int, typer.Option("--size", help="Px of the square.")] = 256,
    frames: Annotated[int, typer.Option("--frames", help="1 or 4n+1.")] = 17,
    every: Annotated[int, typer.Option("--every", min=1, help="Use every n-th file.")] = 1,
) -> None:
    """Print one line of JSON per VAE."""
    listing = vae_data.list_footage(footage, footage)
    sources = [one for one in listing.holdout if min(one.width, one.height) >= size][::every]
    clips = [vae_data.read(vae_data.middle(one, frames), size) for one in sources]
    for spec in vae or ["codec"]:
        print(json.dumps(measure(spec, clips)), flush=True)


if __name__ == "__main__":
    typer.run(main)
