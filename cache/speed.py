"""How fast a cache was encoded the last time, kept beside it to estimate the next: speed.json."""

from __future__ import annotations

from collections.abc import Mapping

from cache import index as tables
from cache.buckets import Bucket
from media import storage


def pixels(samples: Mapping[str, int]) -> int:
    """Of all frames of so many samples of each bucket."""
    shapes = {name: Bucket.parse(name) for name in samples}
    return sum(
        count * shapes[name].frames * shapes[name].height * shapes[name].width for name, count in samples.items()
    )


def write_speed(folder: str, device: str, samples: Mapping[str, int], seconds: float) -> None:
    """samples: made per bucket; seconds: that they took together."""
    speed = {"device": device, "pixels_per_s": round(pixels(samples) / max(seconds, 1e-3))}
    tables.write_json(_path(folder), speed)


def hours(folder: str, samples: Mapping[str, int]) -> float | None:
    """For these samples at the speed of the last run; None when there was none."""
    found = tables.read_json(_path(folder))
    return pixels(samples) / max(1, found["pixels_per_s"]) / 3600 if found else None


def _path(folder: str) -> str:
    return storage.join(folder, "speed.json")
