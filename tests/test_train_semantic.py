"""Semantic injection in training and sampling: which tokens stand in front of the text, and when a black picture's do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cache_workspace as ws
import pytest
import torch
from llava_weights import PROMPT, TOKENS, write_llava

import commands
from cache.black import read_black
from cache.buckets import Bucket
from cache.pixels import Crop, read_pixels
from cache.read import LatentCache, open_cache
from cache.update import Options, update
from compat import mend_torchvision
from media.write import write_png
from model.conditioning import VARIANTS
from pipelines import Image2Video, Recipe, RecipeError
from tests.test_train_i2v import micro
from tests.test_train_resume import ALONE, OPTIONS, StopAfter, losses
from train import batch, conditions, loop, sample, semantic, stages
from train.draws import caption
from train.generate import latents

mend_torchvision()
pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

CLIP, PICTURE = "9x64x64-24fps", "1x64x64"
VIEWS: dict[str, Any] = {
    "picture": {"size": 64, "aspects": "square"},
    "clip": {"size": 64, "frames": 9, "fps": ws.FPS, "aspects": "square"},
}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llava(tmp_path_factory.mktemp("llava"), width=128)  # as wide as the built-in text states


@pytest.fixture(scope="module")
def encoded(llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Footage, encoded with image tokens by the cache's own command; nothing is trained yet."""
    folder = tmp_path_factory.mktemp("encoded")
    chosen = recipe(folder, llava)
    ws.fill(chosen, ws.footage(folder, videos=4, images=2))
    update(chosen, Options(workers=0, device="cpu"), lambda line: None)
    return chosen


def recipe(folder: Path, llava: Path, variant: str = "token_replace", stride: int = 2, **rule: Any) -> Recipe:
    stage = {
        "feeds": [{"set": "images", "view": "picture", "share": 0.2}, {"set": "videos", "view": "clip", "share": 0.8}],
        "tokens": 96, "steps": 4, "lr": 1e-3, "checkpoint_every": 2, "validate_every": 100, "start": "scratch",
        "image_to_video": {"variant": variant} | rule,
    }  # fmt: skip
    cache = {
        "caption_variants": 2, "shard_bytes": 60_000, "conditions": ["first_frame", "noised_first_frame", "image_tokens"],
        "noise_draws": 2, "image_tokens": {"model": str(llava), "prompt": PROMPT, "stride": stride},
    }  # fmt: skip
    return ws.recipe(folder, cache=cache, views=VIEWS, stages={"i": stage}, model="tiny")


def again(encoded: Recipe, llava: Path, variant: str = "token_replace", **rule: Any) -> tuple[LatentCache, Recipe]:
    chosen = recipe(Path(encoded.workspace).parent, llava, variant, **rule)
    return open_cache(chosen), chosen


@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_of_the_variants_stride_stand_in_front_of_the_text(variant: str, encoded: Recipe, llava: Path) -> None:
    cache, chosen = again(encoded, llava, variant, semantic_drop=0.0)
    loaded = batch.load(cache, chosen.stages["i"], micro(CLIP, (2, 0)))
    samples, step = cache.read(CLIP, [2, 0]), 2 if variant == "token_replace" else 1
    seen = TOKENS // 2 // step
    assert [len(one.conditions["image_tokens"]) for one in samples] == [TOKENS // 2] * 2  # stored: every 2nd
    for number, one in enumerate(samples):
        assert torch.equal(loaded.text[number, :seen], one.conditions["image_tokens"][::step].float())
    assert loaded.mask[:, :seen].all() and not (loaded.mask[:, 1:] & ~loaded.mask[:, :-1]).any()
    plain = batch.load(cache, chosen.stages["i"].model_copy(update={"image_to_video": None}), micro(CLIP, (2, 0)))
    assert torch.equal(loaded.text[:, seen:], plain.text) and torch.equal(loaded.mask[:, seen:], plain.mask)
    pictures = batch.load(cache, chosen.stages["i"], micro(PICTURE, (0, 1), feed=0))
    assert pictures.text.shape[1] == int(pictures.mask.sum(1).max())


def test_a_black_pictures_tokens_stand_in_with_the_probability_whatever_the_text(encoded: Recipe, llava: Path) -> None:
    cache, chosen = again(encoded, llava)
    rule, stage, black = chosen.stages["i"].image_to_video, chosen.stages["i"], read_black(cache.folder)[::2].float()
    assert isinstance(rule, Image2Video) and rule.semantic_drop == 0.1
    names = [(0, 1, 0, 0, f"{i:016x}", 0) for i in range(2000)]
    seen = semantic.in_training(rule, cache, cache.read(CLIP, [0]) * len(names), names)
    assert seen is not None
    dropped = (seen.tokens == black).flatten(1).all(dim=1)
    assert abs(int(dropped.sum()) - 200) < 4 * (2000 * 0.1 * 0.9) ** 0.5
    texts = torch.tensor([caption(len(cache.read(CLIP, [0])[0].texts), stage.text_dropout, *one)[1] for one in names])
    assert abs(int((dropped & texts).sum()) - 20) < 4 * (2000 * 0.01 * 0.99) ** 0.5
    parts = [semantic.in_training(rule, cache, cache.read(CLIP, [0]), [name]) for name in names[:50]]
    assert all(one is not None and torch.equal(one.tokens[0], whole) for one, whole in zip(parts, seen.tokens))
    whole = semantic.as_it_is(rule, cache, cache.read(CLIP, [0, 1]))
    assert whole is not None and not (whole.tokens == black).flatten(1).all(dim=1).any()


def test_without_the_text_a_black_picture_is_seen(encoded: Recipe, llava: Path) -> None:
    cache, chosen = again(encoded, llava)
    rule = chosen.stages["i"].image_to_video
    assert rule is not None
    given = conditions.validation_given(chosen.stages["i"], CLIP, cache.read(CLIP, [1]), cache)
    assert given is not None and given.seen is not None
    model = stages.build(stages.size_of(chosen), stages.widths_of(cache.settings), 0, images=rule)
    fed: list[tuple[torch.Tensor, torch.Tensor]] = []
    model.register_forward_pre_hook(lambda _module, given: fed.append((given[2], given[3])))
    (one,) = cache.read(CLIP, [1])
    latents(model, [one.texts[0]], torch.randn(one.latent.shape)[None], 1, 3.0, 1.0, given=given)
    (told, told_mask), (untold, untold_mask) = fed
    assert torch.equal(told[0, :4], one.conditions["image_tokens"][::2].float())
    assert int(told_mask.sum()) == 4 + len(one.texts[0].states)
    assert torch.equal(untold[0, :4], read_black(cache.folder)[::2].float()) and int(untold_mask.sum()) == 4


def test_trains_stops_goes_on_and_samples_with_what_is_seen(
    encoded: Recipe, llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for name, stops in (("straight", (None,)), ("stopped", (3, None))):
        shutil.copytree(encoded.workspace, tmp_path / name / "work")
        chosen = recipe(tmp_path / name, llava, semantic_drop=0.5)
        for stop in stops:
            if stop is None:
                loop.train_stage(chosen, "i", ALONE, StopAfter(), OPTIONS)
                continue
            with pytest.raises(commands.Interrupted):
                loop.train_stage(chosen, "i", ALONE, StopAfter(stop), OPTIONS)
        runs.append(losses(Path(chosen.workspace) / "runs" / "i"))
    assert len(runs[0]) == 4 and runs[0] == runs[1]

    chosen = recipe(tmp_path / "straight", llava, semantic_drop=0.5)
    config = ws.config(chosen, tmp_path / "pipelines.yaml")
    write_png(str(tmp_path / "first.png"), ws.drawn(0, 1, 64, 64)[0])
    sample.main(
        stage="i", prompt=["a ball"], prompts=None, image=str(tmp_path / "first.png"), frames=9, size="64", fps=24.0,
        steps=2, guidance=2.0, config=str(config), device="cpu", out=str(tmp_path / "out"),
    )  # fmt: skip
    assert "dB of the image" in capsys.readouterr().out

    cache, studio = open_cache(chosen), sample._Studio(chosen, "i", False, "cpu")
    (one,) = cache.read(CLIP, [0])
    path = next(row["path"] for row in ws.footage(tmp_path, videos=4, images=2) if row["clip_id"] == one.clip_id)
    first = read_pixels(path, 0.0, Crop(), Bucket.parse(CLIP))[0]
    seen = studio._seen(first)  # stored as bfloat16
    assert torch.allclose(seen.tokens[0], one.conditions["image_tokens"][::2].float(), atol=2e-2)
    assert torch.allclose(seen.black, read_black(cache.folder)[::2].float(), atol=2e-2)


def test_tokens_that_do_not_fit_are_refused(encoded: Recipe, llava: Path) -> None:
    cache, chosen = again(encoded, llava)
    rule = chosen.stages["i"].image_to_video
    assert rule is not None
    held = cache.settings["latents"]["conditions"]["image_tokens"]
    for changed, said in (
        ({"stride": 3}, "takes every 4th image token, the cache holds every 3th"),
        ({"width": 96}, "96 wide"),
    ):
        latents_ = cache.settings["latents"] | {"conditions": {"image_tokens": held | changed}}
        with pytest.raises(RecipeError, match=said):
            semantic.every(rule, cache.settings | {"latents": latents_})
    plain = cache.settings["latents"] | {"conditions": {"first_frame": {}}}
    assert semantic.every(rule, cache.settings | {"latents": plain}) is None
