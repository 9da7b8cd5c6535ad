"""Overlay: marks laid over scenes that move, stand still, or change from clip to clip; the detector's decoding in closed form."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from curate.pictures import encode_jpeg
from curate.signals.crops import overlap
from curate.signals.detector import decode
from curate.signals.overlay import COLUMNS, from_proxies, measure
from examples.effects import Logo, add_logo
from examples.scenes import Scene, render_scene

TIMES = np.arange(8) * 0.3


def frames(seed: int, logo: Logo | None, move: str = "pan right", background: str = "clouds") -> list[np.ndarray]:
    scene = Scene(background, ("navy", "sand"), "tree", "red", standing=4 * (move != "static"), move=move)
    return [add_logo(frame, logo)[0] for frame in render_scene(scene, seed, 320, 180, TIMES)]


def box_of(logo: Logo) -> tuple[float, ...]:
    left, top, right, bottom = add_logo(np.zeros((180, 320, 3), np.uint8), logo)[1][0]
    return left / 320, top / 180, right / 320, bottom / 180


STAR, RING = Logo("top right", 1.0, "star", "yellow", 0.2), Logo("middle", 0.5, "ring", "white", 0.4)


@pytest.mark.parametrize(
    "logo, move", [(STAR, "pan right"), (STAR, "zoom in"), (STAR, "handheld"), (RING, "pan right"), (RING, "zoom in")]
)
def test_a_mark_is_found_in_a_moving_scene(logo: Logo, move: str) -> None:
    """How often, over many scenes, is in benchmarks/signals.py."""
    found = measure([frames(3, logo, move)])[0]
    left, top, right, bottom = box_of(logo)
    assert 0.25 < found["overlay"] / ((right - left) * (bottom - top)) < 2.2
    assert measure([frames(3, None, move)])[0]["overlay"] == 0


def test_the_crop_leaves_the_mark_out() -> None:
    logo = Logo("top right", 1.0, "star", "yellow", 0.2)
    found = measure([frames(3, logo)])[0]
    inner = tuple(found[f"overlay_crop_{side}"] for side in ("left", "top")) + tuple(
        1 - found[f"overlay_crop_{side}"] for side in ("right", "bottom")
    )
    assert overlap(inner, box_of(logo)) < 0.01  # type: ignore[arg-type]


def test_a_still_clip_alone_is_unknown_and_with_others_known() -> None:
    logo = Logo("bottom left", 1.0, "cross", "teal", 0.2)
    clips = [frames(seed, logo, "static", name) for seed, name in ((1, "clouds"), (2, "bricks"), (3, "dots"))]
    assert measure(clips[:1])[0]["overlay"] is None
    assert all(one["overlay"] > 0.005 for one in measure(clips))
    bare = [frames(seed, None, "static", name) for seed, name in ((1, "clouds"), (2, "bricks"), (3, "dots"))]
    assert all(one["overlay"] == 0 for one in measure(bare))


def test_an_image_is_unknown_and_the_table_has_its_columns() -> None:
    jpegs = [[encode_jpeg(frames(3, None)[0])], []]
    rows = from_proxies(pa.table({"clip_id": ["a", "b"], "jpegs": jpegs}), SimpleNamespace(weights=None))
    assert rows.schema == pa.schema({"clip_id": pa.string()} | COLUMNS) and rows["overlay"].to_pylist() == [None, None]


def test_the_detector_decodes_its_grid() -> None:
    output = np.zeros((1, 8 * 8 + 4 * 4 + 2 * 2, 6), np.float32)
    output[0, 8 * 3 + 2] = [
        0.5,
        0.5,
        np.log(2),
        np.log(1),
        0.9,
        1.0,
    ]  # cell (2, 3) of stride 8: centre 20, 28; 16 x 8 px
    (found,) = decode(output, 64, (64, 32))
    assert found.box == pytest.approx((12 / 64, 24 / 32, 28 / 64, 1.0)) and found.score == pytest.approx(0.9)
    with pytest.raises(ValueError, match="YOLOX"):
        decode(output[:, :5], 64, (64, 32))
