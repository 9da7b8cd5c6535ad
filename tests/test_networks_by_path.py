"""Networks that a recipe names by path, run for real: an ONNX detector for people and marks, DOVER as ONNX and as TorchScript."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pyarrow as pa
import pytest
import torch
from onnx import TensorProto, helper

from curate.pictures import encode_jpeg
from curate.signals import dover, overlay, people, quality
from curate.signals.detector import detect

SIDE = 64  # of the detector's input: 8 x 8, 4 x 4 and 2 x 2 cells
IMAGE = (1, 3, dover.FRAMES, dover.SIDE, dover.SIDE)


def saved(path: Path, nodes: list, inputs: dict[str, tuple], outputs: dict[str, tuple], constants: dict) -> str:
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "network",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


def lamp_finder(path: Path) -> str:
    """A detector of the YOLOX kind that takes a cell of 8 px for a person where it is all but white: boxes of 8 x 8 px."""
    pooled = [helper.make_node("AveragePool", ["picture"], [f"p{n}"], kernel_shape=[n, n], strides=[n, n])
              for n in (8, 16, 32)]  # fmt: skip
    flat = [
        node
        for n in (8, 16, 32)
        for node in (
            helper.make_node("ReduceMean", [f"p{n}"], [f"m{n}"], axes=[1], keepdims=1),
            helper.make_node("Reshape", [f"m{n}", "column"], [f"c{n}"]),
        )
    ]
    cells = (SIDE // 8) ** 2 + (SIDE // 16) ** 2 + (SIDE // 32) ** 2
    fine = np.zeros((1, cells, 1), np.float32)
    fine[0, : (SIDE // 8) ** 2] = 1  # only cells of 8 px may be sure
    nodes = [
        *pooled,
        *flat,
        helper.make_node("Concat", ["c8", "c16", "c32"], ["grey"], axis=1),
        helper.make_node("Sub", ["grey", "dark"], ["above"]),
        helper.make_node("Mul", ["above", "steep"], ["steeply"]),
        helper.make_node("Clip", ["steeply", "zero", "one"], ["white"]),
        helper.make_node("Mul", ["white", "fine"], ["sure"]),
        helper.make_node("Concat", ["boxes", "sure", "is_person"], ["found"], axis=2),
    ]
    boxes = np.tile(np.array([0.5, 0.5, 0.0, 0.0], np.float32), (1, cells, 1))
    constants = {
        "column": np.array([1, -1, 1], np.int64), "dark": np.float32(200), "steep": np.float32(1 / 50),
        "zero": np.float32(0), "one": np.float32(1), "fine": fine, "boxes": boxes,
        "is_person": np.ones((1, cells, 1), np.float32),
    }  # fmt: skip
    return saved(path, nodes, {"picture": (1, 3, SIDE, SIDE)}, {"found": (1, cells, 6)}, constants)


def picture(*cells: tuple[int, int]) -> np.ndarray:
    """Dark, 2 SIDE wide and SIDE high, with 16 px squares of white at these (column, row), in cells of the shrunk picture."""
    rgb = np.full((SIDE, 2 * SIDE, 3), 30, np.uint8)
    for column, row in cells:
        rgb[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] = 255
    return rgb


def table(*clips: list[np.ndarray]) -> pa.Table:
    jpegs = [[encode_jpeg(frame) for frame in frames] for frames in clips]
    return pa.table({"clip_id": [f"{k:016x}" for k in range(len(clips))], "jpegs": jpegs})


def test_a_detector_finds_what_is_there_in_shares_of_the_frame(tmp_path: Path) -> None:
    found = detect(lamp_finder(tmp_path / "lamps.onnx"), picture((5, 1)))
    assert [one.label for one in found] == [0]
    assert found[0].box == pytest.approx((5 / 8, 1 / 4, 6 / 8, 2 / 4), abs=1e-3) and found[0].score > 0.9


def test_people_are_counted_by_the_detector_that_the_recipe_names(tmp_path: Path) -> None:
    settings = SimpleNamespace(weights=lamp_finder(tmp_path / "lamps.onnx"))
    rows = people.from_proxies(table([picture((1, 1), (5, 2))] * 3, [picture()] * 3), settings).to_pylist()
    assert [row["people"] for row in rows] == [2, 0]
    assert rows[0]["largest_person"] == pytest.approx(1 / 4 / 8, rel=0.1) and not rows[1]["largest_person"]


def test_marks_are_what_the_detector_that_the_recipe_names_finds(tmp_path: Path) -> None:
    settings = SimpleNamespace(weights=lamp_finder(tmp_path / "lamps.onnx"))
    videos = table([picture((7, 0))] * 4, [picture()] * 4)
    marked, bare = (row["overlay"] for row in overlay.from_proxies(videos, settings).to_pylist())
    assert marked == pytest.approx(1 / 8 / 4, rel=0.2) and bare == 0


def test_what_is_no_detector_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has to name an ONNX detector"):
        detect(str(tmp_path / "none.onnx"), picture())
    one = helper.make_node("ReduceMean", ["a"], ["b"], axes=[1, 2, 3], keepdims=0)
    other = saved(tmp_path / "other.onnx", [one], {"a": (1, 3, 64, 32)}, {"b": (1,)}, {})
    with pytest.raises(ValueError, match="takes a square of fixed size"):
        detect(other, picture())


# ----------------------------------------------------------------------------------------------------------------- DOVER


class Views(torch.nn.Module):
    """Brightness of the whole, and of the patches: of two pictures or of one."""

    def forward(self, whole: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return whole.mean().reshape(1), patches.mean().reshape(1)


class View(torch.nn.Module):
    def forward(self, whole: torch.Tensor) -> torch.Tensor:
        return torch.stack([whole.mean(), whole.amax()])


def onnx_views(path: Path) -> str:
    nodes = [helper.make_node("ReduceMean", [name], [f"{name}_mean"], keepdims=0) for name in ("whole", "patches")]
    return saved(path, nodes, {"whole": IMAGE, "patches": IMAGE}, {"whole_mean": (), "patches_mean": ()}, {})


def scripted(network: torch.nn.Module, path: Path) -> str:
    torch.jit.save(torch.jit.script(network), path)
    return str(path)


@pytest.fixture
def clip() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (6, 240, 320, 3), np.uint8))


def squashed(raw: np.ndarray) -> dict[str, float]:
    """The authors' fusion, written out: aesthetic and technical centred and scaled, then weighted."""
    aesthetic, technical = (raw[0] + 0.08285) / 0.03774, (raw[1] - 0.1107) / 0.07355
    values = {"quality": 0.3896 * aesthetic + 0.6104 * technical, "aesthetic": aesthetic, "technical": technical}
    return {name: 1 / (1 + np.exp(-value)) for name, value in values.items()}


def test_both_forms_of_a_network_with_two_views_give_the_same(tmp_path: Path, clip: list[np.ndarray]) -> None:
    whole, patches = (view(clip, dover.FRAMES) for view in (dover.whole, dover.fragments))
    assert whole.shape == patches.shape == IMAGE and not np.allclose(whole, patches, atol=0.1)
    wanted = squashed(np.array([whole.mean(), patches.mean()]))
    for path in (onnx_views(tmp_path / "dover.onnx"), scripted(Views(), tmp_path / "dover.pt")):
        assert dover.judge(path, clip) == pytest.approx(wanted, abs=1e-4)


def test_a_network_with_one_view_is_given_the_whole(tmp_path: Path, clip: list[np.ndarray]) -> None:
    whole = dover.whole(clip, dover.FRAMES)
    found = dover.judge(scripted(View(), tmp_path / "one.pt"), clip)
    assert found == pytest.approx(squashed(np.array([whole.mean(), whole.max()])), abs=1e-4)


def test_quality_is_the_named_networks(tmp_path: Path, clip: list[np.ndarray]) -> None:
    settings = SimpleNamespace(weights=onnx_views(tmp_path / "dover.onnx"))
    dark = [frame // 4 for frame in clip]
    bright, dim, none = quality.from_proxies(table(clip, dark, []), settings).to_pylist()
    assert bright["aesthetic"] > dim["aesthetic"] and none["quality"] is None
    with pytest.raises(FileNotFoundError, match="has to name a DOVER network"):
        quality.from_proxies(table(clip), SimpleNamespace(weights=str(tmp_path / "no.onnx")))
