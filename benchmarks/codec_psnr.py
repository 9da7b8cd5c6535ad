"""How much of a picture the built-in codec keeps, and the scale of its channels, on any footage.

    python -m benchmarks.codec_psnr data/footage ../shared/footage

Per file one 17-frame clip from its middle (an image: itself), 256 x 256 px. PSNR is of RGB in [0, 255] after clipping,
per file capped at 50 dB (flat pictures are kept exactly), then averaged; `stored` is after bfloat16, as in a cache. The
last lines give each channel's root mean square: about 1 where the codec's scales fit the footage.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from media.frames import read_frames
from media.probe import probe
from model import codec

SIDE, FRAMES, FPS, CAP = 256, 17, 24.0, 50.0


def main() -> None:
    parser = argparse.ArgumentParser(description="PSNR of the built-in codec and the scale of its channels")
    parser.add_argument("footage", nargs="+", type=Path)
    torch.set_grad_enabled(False)
    kinds: dict[str, list[torch.Tensor]] = {"image": [], "video": []}
    for folder in parser.parse_args().footage:
        for kind, video in clips(folder):
            kinds[kind].append(video)
    for kind, videos in kinds.items():
        exact = [psnr(codec.decode(codec.encode(video)), video) for video in videos]
        stored = [psnr(codec.decode(codec.encode(video).bfloat16()), video) for video in videos]
        line = f"PSNR {np.mean(exact):.2f} dB, median {np.median(exact):.2f}, stored {np.mean(stored):.2f}"
        print(f"{kind}s {len(videos)}: {line}")
    latents = [codec.encode(video)[0] for videos in kinds.values() for video in videos]
    print("rms of channels, first frame ", numbers(torch.stack([rms(one[:, :1]) for one in latents])))
    print(
        "rms of channels, later frames", numbers(torch.stack([rms(one[:, 1:]) for one in latents if one.shape[1] > 1]))
    )


def clips(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """(kind, video (1, 3, T, 256, 256) in [-1, 1]) of every file that is whole and at least half a clip's size."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found = probe(str(path))
        if found.media not in ("image", "video") or min(found.width or 0, found.height or 0) < SIDE / 2:
            continue
        start = 0.0 if found.media == "image" else max(0.0, (found.duration_s or 0) / 2 - FRAMES / FPS / 2)
        times = [start + k / FPS for k in range(1 if found.media == "image" else FRAMES)]
        try:
            pixels = read_frames(str(path), times, (SIDE, SIDE))
        except (ValueError, OSError) as error:  # there are files that are broken on purpose among the real footage
            print(f"left out: {error}", file=sys.stderr)
            continue
        yield found.media, torch.from_numpy(pixels).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def psnr(decoded: torch.Tensor, video: torch.Tensor) -> float:
    error = float(((decoded.clamp(-1, 1) - video) ** 2).mean()) / 4
    return CAP if error <= 10 ** (-CAP / 10) else -10 * math.log10(error)


def rms(latent: torch.Tensor) -> torch.Tensor:
    return latent.square().mean(dim=(1, 2, 3)).sqrt()


def numbers(per_clip: torch.Tensor) -> str:
    return " ".join(f"{value:.2f}" for value in per_clip.mean(0).tolist())


if __name__ == "__main__":
    main()
