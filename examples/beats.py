"""Films with sound, for the synchronisation scorer: a disc that grows at irregular beats, and the beats that are heard.

    python -m examples.beats data/beats --films 40

Each film is 128 x 96 px at 24 fps and three seconds long; the disc drifts, so that it counts as moving, and swells when a
decaying tone begins. beats.json beside them tells when.
"""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

WIDTH, HEIGHT, FPS, SECONDS, RATE = 128, 96, 24, 3.0, 16_000
DECAY_S = 0.09  # of disc and tone alike


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--films", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    truth = {}
    for number in range(given.films):
        chance = np.random.default_rng([given.seed, number])
        times = beats(chance)
        truth[name := f"beat{number:03}.mp4"] = [round(float(one), 4) for one in times]
        write(given.folder / name, pictures(chance, times), tones(chance, times))
    (given.folder / "beats.json").write_text(json.dumps(truth, indent=1))
    print(f"{given.films} films of {SECONDS:g} s: {given.folder}")


def beats(chance: np.random.Generator) -> np.ndarray:
    """Seconds of the beats: 0.15 to 0.6 s apart."""
    times = np.cumsum(chance.uniform(0.15, 0.6, size=32))
    return times[times < SECONDS - 0.1]


def loudness(times: np.ndarray, at: np.ndarray) -> np.ndarray:
    """In [0, 1] at seconds `at`: 1 when a beat begins, then dying away."""
    since = at[:, None] - times[None]
    return np.where(since >= 0, np.exp(-since / DECAY_S), 0.0).max(axis=1, initial=0.0)


def pictures(chance: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """uint8 (T, H, W, 3)."""
    at = np.arange(round(SECONDS * FPS)) / FPS
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ground, colour = chance.uniform(20, 90, 3), chance.uniform(130, 250, 3)
    shade = 1.0 + 0.25 * np.sin(x / chance.uniform(5, 12) + y / chance.uniform(5, 12))
    centre = np.array([HEIGHT, WIDTH]) * chance.uniform(0.35, 0.65, 2)
    speed = chance.choice([-1.0, 1.0], 2) * chance.uniform(3, 8, 2)
    film = np.empty((len(at), HEIGHT, WIDTH, 3), np.uint8)
    for k, loud in enumerate(loudness(times, at)):
        away = np.hypot(y - centre[0] - speed[0] * at[k], x - centre[1] - speed[1] * at[k])
        inside = np.clip(12 + 22 * loud - away + 0.5, 0, 1)[..., None]
        film[k] = np.round(np.clip((1 - inside) * ground * shade[..., None] + inside * colour, 0, 255))
    return film


def tones(chance: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """float32 (samples,)."""
    at = np.arange(round(SECONDS * RATE)) / RATE
    return (0.6 * loudness(times, at) * np.sin(2 * np.pi * chance.uniform(250, 1500) * at)).astype(np.float32)


def write(path: Path, film: np.ndarray, wave: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=Fraction(FPS), options={"crf": "20", "threads": "1"})
        video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        sound: Any = container.add_stream("aac", rate=RATE, layout="mono")
        for pixels in film:
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
        heard: Any = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        heard.sample_rate, heard.pts, heard.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(sound.encode(heard))
        container.mux(sound.encode(None))


if __name__ == "__main__":
    main()
