"""Who may import whom (docs/DESIGN.md), which library only where, and that importing does nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("media", "model", "curate", "cache", "train", "examples")
ANYONE = {"pipelines", "recipe_file", "compat", "commands", "media.storage"}

ARROWS: dict[str, set[str]] = {
    "media": set(),
    "model": set(),
    "curate": {"media"},
    "cache": {"media", "curate.tables", "model"},
    "train": {"cache", "model", "media.write"},
    "examples": {"media"},
}

# VAE training reads pixels of the footage itself: the only file of train that does.
BEYOND: dict[str, set[str]] = {"train/vae_data.py": {"media.probe", "media.frames", "media.decode"}}

TORCH_IN_CURATE: set[str] = {"curate/embed_clip.py", "curate/transnet.py", "curate/signals/dover.py"}
WEBDATASET_IN = {"cache/shards.py", "cache/read.py"}

HEAVY = {"torch", "ray", "transformers", "diffusers", "open_clip", "sklearn", "matplotlib", "webdataset", "decord"}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path, top_only: bool = False) -> set[str]:
    """Full names of the modules a file imports, inside functions too unless top_only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def allowed(name: str, room: str, path: Path) -> bool:
    permitted = ANYONE | ARROWS[room] | {room} | BEYOND.get(str(path.relative_to(ROOT)), set())
    return any(name == one or name.startswith(f"{one}.") for one in permitted)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    for path in files(room):
        ours = {name for name in imported(path) if name.split(".")[0] in (*ROOMS, "pipelines", "compat", "commands")}
        # `from curate import tables` names the package and the module: the package alone says nothing.
        ours -= {name for name in ours if any(other.startswith(f"{name}.") for other in ours)}
        bad = sorted(name for name in ours if not allowed(name, room, path) and not _inner_name(name, room, path))
        assert not bad, f"{path.relative_to(ROOT)} imports {bad}; {room} may import {sorted(ARROWS[room] | ANYONE)}"


def _inner_name(name: str, room: str, path: Path) -> bool:
    """`media.storage.find` is a name inside an allowed module; its parent decides."""
    return "." in name and allowed(name.rsplit(".", 1)[0], room, path)


def test_ray_only_in_on_ray() -> None:
    users = {path.relative_to(ROOT) for room in ROOMS for path in files(room) if "ray" in imported(path)}
    assert all(path.name == "on_ray.py" for path in users), users


def test_webdataset_only_where_shards_are_written_and_streamed() -> None:
    users = {str(path.relative_to(ROOT)) for room in ROOMS for path in files(room) if "webdataset" in imported(path)}
    assert users <= WEBDATASET_IN, users


def test_decoders_only_in_media() -> None:
    for room in set(ROOMS) - {"media", "examples"}:
        for path in files(room):
            assert not imported(path) & {"av", "decord"}, path


def test_torch_in_curate_only_where_a_network_is() -> None:
    users = {str(path.relative_to(ROOT)) for path in files("curate") if "torch" in imported(path)}
    assert users <= TORCH_IN_CURATE, users


def test_no_pickle_anywhere() -> None:
    for room in ROOMS:
        for path in files(room):
            source = path.read_text(encoding="utf-8")
            assert not imported(path) & {"pickle", "cloudpickle", "dill", "joblib"}, path
            assert (
                "torch.load(" not in source
                and "yaml.load(" not in source
                and "eval(" not in source.replace(".eval(", "")
            ), path


@pytest.mark.parametrize(
    "module", ["pipelines", "compat", "commands", "media.storage", "curate.tables", "curate.__main__"]
)
def test_importing_is_light(module: str) -> None:
    code = f"import sys, {module}; print(' '.join(sorted({HEAVY!r} & set(sys.modules))))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not loaded.split(), f"import {module} loads {loaded}"


def test_a_scan_loads_no_signal_before_one_is_wanted() -> None:
    """Splitting alone starts as quickly as its peers: signals bring Arrow with them."""
    code = "import sys, curate.scan; print(*({'pyarrow', 'pydantic', 'curate.signals'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not loaded.split(), f"import curate.scan loads {loaded}"


def test_files_stay_small() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for room in ROOMS
        for path in files(room)
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long, long
