"""People: counting in closed form, nobody where nobody is, labelled real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.signal_clips import real_clip
from curate.signals.people import Sight, measure, persons, summary
from examples.scenes import Scene, render_scene
from examples.textures import photograph

FACE = Sight("face", (0.4, 0.1, 0.5, 0.25), True)
BODY = Sight("body", (0.3, 0.05, 0.6, 0.95), True)


def test_a_face_in_a_body_is_one_person() -> None:
    assert persons([FACE, BODY]) == [BODY.box]
    assert len(persons([FACE, Sight("body", (0.7, 0.1, 0.9, 0.9), True)])) == 2
    (below,) = persons([FACE])
    assert below[0] < FACE.box[0] and below[3] == 1.0


def test_most_of_all_frames_counts() -> None:
    scores = summary([[FACE], [FACE, BODY, Sight("body", (0.7, 0.1, 0.9, 0.9), True)], []])
    assert (
        scores["people"] == 2 and scores["faces"] == 1 and scores["largest_person"] == pytest.approx(0.2835)
    )  # of the face: three faces wide, down to the edge of its body


def test_nobody() -> None:
    scene = next(iter(render_scene(Scene("bricks", moving=4), 0, 320, 180, np.arange(2) / 10)))
    flower = np.ascontiguousarray(photograph("flower.jpg")[:320, :480])
    for picture in (np.zeros((40, 30, 3), np.uint8), scene, flower):
        assert measure([picture]) == {"people": 0, "faces": 0, "largest_person": 0}
    assert set(measure([]).values()) == {None}


@pytest.mark.slow
def test_labelled_files(footage: Path) -> None:
    labels = json.loads((footage / "labels.json").read_text())["people"]
    found = {name: measure(real_clip(footage, name).frames[::2])["people"] for name in labels}
    near = [abs(found[name] - count) <= 1 for name, count in labels.items()]
    assert np.mean(near) >= 0.8, found
    assert all(found[name] == 0 for name, count in labels.items() if count == 0), found
