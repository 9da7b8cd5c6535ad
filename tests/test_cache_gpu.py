"""On a GPU: the same latents as on a CPU up to its arithmetic, and faster than a plain loop at full size."""

import json
import subprocess
import sys
from pathlib import Path

import cache_workspace as ws
import pytest
import torch

from cache.read import open_cache
from cache.update import Options, update

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def test_latents_are_those_of_the_cpu_up_to_rounding(tmp_path: Path) -> None:
    from test_vae_folders import CONFIGS, diffusers

    torch.manual_seed(0)
    diffusers.AutoencoderKLHunyuanVideo(**CONFIGS["AutoencoderKLHunyuanVideo"]).save_pretrained(tmp_path / "vae")
    files = ws.footage(tmp_path, videos=4, images=2)
    more = ws.DEFAULTS["cache"] | {"vae": str(tmp_path / "vae"), "dtype": "float32"}
    found = {}
    for device in ("cpu", "cuda"):
        chosen = ws.fill(ws.recipe(tmp_path / device, cache=more), files)
        assert update(chosen, Options(workers=2, device=device), lambda line: None).encoded == 6
        cache = open_cache(chosen)
        found[device] = {
            (one.clip_id, one.latent.shape): one.latent for one in map(cache.__getitem__, range(len(cache)))
        }
    assert found["cpu"].keys() == found["cuda"].keys()
    assert all(torch.allclose(found["cuda"][key], latent, atol=2e-2) for key, latent in found["cpu"].items())


def test_twice_as_fast_as_a_plain_loop_with_the_full_size_vae(tmp_path: Path) -> None:
    out = tmp_path / "encode.json"
    sizes = ["--device", "cuda", "--size", "full", "--clips", "48", "--json", str(out)]
    subprocess.run([sys.executable, "-m", "benchmarks.encode", *sizes], check=True, cwd=Path(__file__).parents[1])
    found = json.loads(out.read_text())
    assert found["ratio"] >= 2 and found["sides"]["dailies"]["waits"] < 0.05
