"""From files to the cache through every VAE: what lies there is diffusers' own encode of the same pixels, scaled."""

from pathlib import Path
from typing import Any

import cache_workspace as ws
import numpy as np
import pyarrow as pa
import pytest
import torch
from test_vae_folders import CONFIGS, diffusers

from cache.buckets import Bucket
from cache.pixels import Crop, read_pixels
from cache.read import open_cache
from cache.update import Options, update
from curate.tables import Tables, scores_schema, typed, write_part
from media.decode import Video
from media.frames import fit
from media.probe import probe

VIEWS = {
    "picture": {"size": 32, "aspects": ["3:2", "2:3"]},
    "clip": {"size": 32, "frames": 5, "fps": 12.0, "aspects": ["3:2", "2:3"]},
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vae")
    getattr(diffusers, request.param)(**CONFIGS[request.param]).save_pretrained(path)
    return path


def theirs(folder: Path, pixels: np.ndarray) -> torch.Tensor:
    """The latent (C, t, h, w) that diffusers' class makes of uint8 (T, H, W, 3), scaled as its pipelines do."""
    import json

    name = json.loads((folder / "config.json").read_text())["_class_name"]
    network = getattr(diffusers, name).from_pretrained(folder)
    video = torch.from_numpy(pixels).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        mean = network.encode(video).latent_dist.mean
    if name == "AutoencoderKLWan":
        shift, std = (torch.tensor(getattr(network.config, key)).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std"))  # fmt: skip
        return ((mean - shift) / std)[0]
    return (mean * network.config.scaling_factor)[0]


def compare(chosen: Any, clips: list[dict[str, Any]], folder: Path, crops: dict[str, Crop]) -> list[str]:
    """Every sample of the cache against diffusers; their buckets."""
    cache, rows, seen = open_cache(chosen), {row["clip_id"]: row for row in clips}, []
    for name in cache.buckets:
        bucket = Bucket.parse(name)
        for sample in cache.read(name, range(len(cache.index(name)))):
            row = rows[sample.clip_id]
            pixels = read_pixels(row["path"], row["start_s"], crops.get(sample.clip_id, Crop()), bucket)
            assert sample.latent.shape == (16, (bucket.frames - 1) // 4 + 1, bucket.height // 8, bucket.width // 8)
            assert torch.allclose(sample.latent, theirs(folder, pixels), atol=1e-5, rtol=0)
            if bucket.frames > 1:
                first = theirs(folder, pixels[:1])
                assert torch.allclose(sample.conditions["first_frame"], first, atol=1e-5, rtol=0)
            seen.append(name)
    return seen


def recipe(tmp_path: Path, folder: Path, signals: dict[str, Any] | None = None) -> Any:
    more = {"vae": str(folder), "dtype": "float32", "caption_variants": 1, "conditions": ["first_frame"]}
    return ws.recipe(tmp_path, cache=more, views=VIEWS, curate={"signals": signals or {}})


def test_a_workspace_of_small_files(folder: Path, tmp_path: Path) -> None:
    clips = ws.footage(tmp_path, videos=2, images=2)
    chosen = ws.fill(recipe(tmp_path, folder), clips)
    update(chosen, Options(workers=0, device="cpu"), lambda line: None)
    assert len(compare(chosen, clips, folder, {})) == 4


def test_real_footage_turned_and_cropped(folder: Path, tmp_path: Path, footage: Path) -> None:
    """A turned phone video, a plain one and a picture: the cache's pixels are an upright decode, cut and resized."""
    sources = [path for path in sorted(footage.rglob("*")) if path.suffix in (".mp4", ".mov", ".jpg", ".png")]
    turned = next(path for path in sources if path.suffix in (".mp4", ".mov") and _turned(path))
    plain = next(path for path in sources if path.suffix == ".mp4" and _plain(path))
    picture = next(path for path in sources if path.suffix == ".jpg" and probe(str(path)).status == "ok")
    clips = [_clip(1, turned), _clip(2, plain), _clip(3, picture)]
    chosen, crop = recipe(tmp_path, folder, signals={"borders": {}}), Crop(8, 6, 4, 2)
    ws.fill(chosen, clips)
    _write_borders(chosen, clips, crop)
    update(chosen, Options(workers=0, device="cpu"), lambda line: None)
    crops = {row["clip_id"]: crop for row in clips}
    seen = compare(chosen, clips, folder, crops)
    assert len(seen) == 3
    for row in clips[:2]:  # the pixels themselves, by another way: decoded from the start, upright, cut, resized
        bucket = next(Bucket.parse(name) for name in seen if name.startswith("5x"))
        found = read_pixels(row["path"], row["start_s"], crop, bucket)
        with Video(row["path"]) as video:
            first = next(iter(video)).rgb()
        assert first.shape[:2] == (row["height"], row["width"])
        assert np.abs(found[0].astype(int) - fit(first, (bucket.height, bucket.width), crop)).mean() < 2.0


def _turned(path: Path) -> bool:
    found = probe(str(path))
    return found.status == "ok" and found.rotation_deg in (90, 270) and (found.duration_s or 0) > 1


def _plain(path: Path) -> bool:
    found = probe(str(path))
    return found.status == "ok" and found.rotation_deg == 0 and (found.duration_s or 0) > 1 and found.codec == "h264"


def _clip(i: int, path: Path) -> dict[str, Any]:
    found = probe(str(path))
    start = end = 0.0
    if found.media == "video":
        with Video(str(path)) as video:
            times = [frame.time_s for frame in video]
        start, end = times[0], times[-1]
    return ws.clip(i, found.media, str(path), 1, found.width or 0, found.height or 0) | {"start_s": start, "end_s": end}


def _write_borders(chosen: Any, clips: list[dict[str, Any]], crop: Crop) -> None:
    """As curation would have found them."""
    columns = {f"borders_crop_{side}": pa.float64() for side in Crop._fields}
    lengths = {"left": "width", "right": "width", "top": "height", "bottom": "height"}
    rows = [
        {"clip_id": row["clip_id"]}
        | {f"borders_crop_{side}": px / row[lengths[side]] for side, px in crop._asdict().items()}
        for row in clips
    ]
    write_part(Tables(chosen).part("scores.borders", 0), typed(rows, scores_schema(columns)))
