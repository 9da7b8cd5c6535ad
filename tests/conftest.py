"""What tests share: generated footage with known truth, the real footage where there is some, a private home."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Test processes side by side share the cores: threads of one that wait for threads of another cost more than they give.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
SEED = 0


@pytest.fixture(scope="session", autouse=True)
def private_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder of its own: Ray writes tokens there, model hubs their caches. Nothing phones out."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield home


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums of one thread have one order, and a busy machine does not slow them down twice."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def generated() -> Path:
    """Folder with the generated footage of seed 0 and its truth.json; made once per machine and version of examples/.

    It is shared by all tests: read it, write elsewhere.
    """
    folder = Path(tempfile.gettempdir()) / f"dailies-generated-{_sources_hash()}"
    if not (folder / "truth.json").is_file():
        _generate(folder)
    return folder


@pytest.fixture(scope="session")
def footage() -> Path:
    """Folder with the real footage: DAILIES_FOOTAGE, else shared/footage beside the repository."""
    for folder in (os.environ.get("DAILIES_FOOTAGE"), ROOT.parent / "shared" / "footage"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("no real footage here: set DAILIES_FOOTAGE to its folder")


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small open_clip model of random weights, as open_clip itself saves one."""
    import compat

    compat.mend_torchvision()
    import open_clip
    import safetensors.torch
    import torch

    torch.manual_seed(0)
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    model = open_clip.CLIP(**config)
    folder = tmp_path_factory.mktemp("tiny-clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    safetensors.torch.save_file(model.state_dict(), str(folder / "open_clip_model.safetensors"))
    return folder


def _sources_hash() -> str:
    digest = hashlib.sha256(str(SEED).encode())
    for source in sorted((ROOT / "examples").glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _generate(folder: Path) -> None:
    """Made beside its place and renamed, so that test runs side by side don't see each other's half."""
    from examples.footage import generate

    beside = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        generate(beside, SEED)
        beside.rename(folder)
    except OSError:
        if not (folder / "truth.json").is_file():
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
