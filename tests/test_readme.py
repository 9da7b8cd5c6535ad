"""Every command of the README works as it stands there, on a little footage."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = ("pans_small.mp4", "pans.json", "squares.webm", "squares.json", "turned.mp4", "rings.mkv", "picture_temple.png")
SHORT = ["--set", "stages.256px.steps=2", "--set", "stages.256px.sample_every=2", "--set", "stages.256px.tokens=320"]
SHORT += ["--set", "views.video_256.size=64", "--set", "views.image_256.size=64"]

# Run by `make demo` with the very same words (scripts/demo.py), which the check of every change does first.
BY_THE_DEMO = {
    "make demo",
    "make test",
    "ray job submit -- curate",
    "python -m cache.encode_latents",
    "python -m train.run --stage 256px",
}


def commands(section: str) -> list[str]:
    """Lines of the code blocks of a section, comments taken off."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0] if section else README.split("\n## ")[0]
    blocks = re.findall(r"```\n(.*?)```", text, flags=re.S)
    return [line.split(" #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def run(command: str, home: Path, extra: list[str]) -> subprocess.CompletedProcess[str]:
    words = [word.replace("~", str(home)).replace("work/mine", str(home / "work")) for word in shlex.split(command)]
    if words[0] == "python":
        words[0] = sys.executable
    elif words[0] == "curate":
        words[0] = str(Path(sys.executable).with_name("curate"))
    return subprocess.run([*words, *extra], cwd=home, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def home(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home_of_a_reader")
    (folder / "videos").mkdir()
    for name in FILES:
        shutil.copy(generated / name, folder / "videos" / name)
    return folder


def test_the_first_blocks_are_what_the_demo_runs() -> None:
    demo = (ROOT / "scripts" / "demo.py").read_text(encoding="utf-8")
    assert set(commands("")) | set(commands("Try it")) == BY_THE_DEMO
    for words in ('"job", "submit"', '"cache.encode_latents"', '"train.run", "--stage"'):
        assert words in demo
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\ndemo:" in targets and "\ntest:" in targets


@pytest.mark.timeout(900)
def test_own_footage_from_end_to_end(home: Path) -> None:
    for command in commands("Your own footage"):
        done = run(command, home, SHORT)
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    runs = home / "work" / "runs" / "256px"
    assert (runs / "metrics.jsonl").read_text().count('"loss"') >= 2 and list(runs.rglob("model.safetensors"))
    assert list(runs.rglob("*.png")), "samples were asked for at the last step"
    for command in inline():
        done = run(f"{command} --workspace work/mine", home, [])
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"


def inline() -> list[str]:
    """The commands of the list under `Your own footage`, with a real file where it says FILE_OR_CLIP."""
    section = README.split("\n## Your own footage\n")[1].split("\n## ")[0]
    found = re.findall(r"^- `(curate [^`]*)`", section, flags=re.M)
    assert len(found) >= 4
    filled = [re.sub(r"FILE_OR_CLIP", "~/videos/rings.mkv", command) for command in found]
    return [f"{command} --local --footage ~/videos" if "--set" in command else command for command in filled]


def test_links_and_pictures_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).is_file(), target
    pictures = list((ROOT / "docs" / "pictures").glob("*"))
    assert all(os.path.getsize(picture) < 400_000 for picture in pictures)
