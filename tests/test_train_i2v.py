"""Image-to-video stages: what a batch is given, how a stage starts, goes on and samples, for each variant."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import commands
from cache.buckets import Bucket
from cache.read import open_cache
from media.write import write_png
from model.conditioning import VARIANTS
from pipelines import Recipe, RecipeError
from tests import train_workspace
from tests.test_train_resume import ALONE, OPTIONS, StopAfter, losses
from train import batch, checkpoint, conditions, generate, loop, sample, stages
from train.plan import MicroBatch

CLIP = "5x64x64-8fps"
CACHE = {"caption_variants": 2, "conditions": ["first_frame", "noised_first_frame"], "noise_draws": 2}

pytestmark = pytest.mark.usefixtures("one_thread")


def recipe(workspace: Path, variant: str, more: dict[str, Any] | None = None, **rule: Any) -> Recipe:
    """Stage `s` makes video of text, `i` goes on from it with images."""
    plain = train_workspace.recipe(workspace, {"steps": 2, "warmup_steps": 0}, {"cache": CACHE})
    first = plain.stages["s"].model_dump()
    second = first | {"steps": 4, "checkpoint_every": 2, "image_to_video": {"variant": variant} | rule} | (more or {})
    return train_workspace.recipe(workspace, None, {"cache": CACHE, "stages": {"s": first, "i": second}})


def trained(chosen: Recipe, *names: str) -> None:
    for name in names:
        loop.train_stage(chosen, name, ALONE, StopAfter(), OPTIONS)


def micro(bucket: str, rows: tuple[int, ...], feed: int = 1, epoch: int = 0) -> MicroBatch:
    clips = tuple(f"{row:016x}" for row in rows)
    return MicroBatch(feed, bucket, epoch, rows, (0,) * len(rows), clips, (0,) * len(rows), (0,), 1.0)


SLOW = [pytest.param(one, marks=pytest.mark.slow) for one in ("concat_mask", "concat")]


@pytest.mark.parametrize("variant", ["token_replace", "first_frame_copy", *SLOW])
def test_trains_from_text_to_video_stops_goes_on_and_keeps_its_frame(variant: str, tmp_path: Path, capsys) -> None:
    drawn = {"sample_every": 4} if variant != "first_frame_copy" else {}  # samples take most of the time
    straight = train_workspace.fill(recipe(tmp_path / "straight", variant, drawn))
    trained(straight, "s")
    shutil.copytree(tmp_path / "straight", tmp_path / "stopped")
    trained(straight, "i")
    stopped = recipe(tmp_path / "stopped", variant)
    with pytest.raises(commands.Interrupted):
        loop.train_stage(stopped, "i", ALONE, StopAfter(3), OPTIONS)
    trained(stopped, "i")
    runs = [Path(one.workspace) / "runs" / "i" for one in (straight, stopped)]
    assert len(losses(runs[0])) == 4 and losses(runs[0]) == losses(runs[1])
    if drawn:
        assert {path.suffix for path in (runs[0] / "samples").iterdir()} == {".png", ".mp4"}

    write_png(str(tmp_path / "first.png"), np.full((64, 64, 3), (200, 60, 30), np.uint8))
    config = tmp_path / "pipelines.yaml"
    config.write_text(_yaml(straight))
    sample.main(
        stage="i", prompt=["a red disc"], prompts=None, image=str(tmp_path / "first.png"), frames=5, size="64", fps=8.0,
        steps=4, guidance=2.0, config=str(config), device="cpu", out=str(tmp_path / "out"),
    )  # fmt: skip
    told = capsys.readouterr().out.splitlines()[-1]
    assert "dB of the image" in told and list((tmp_path / "out").glob("*.mp4"))
    if variant == "token_replace":
        assert float(told.split("frame 0: ")[1].split(" dB")[0]) > 30


def _yaml(chosen: Recipe) -> str:
    import yaml

    from pipelines import resolved

    plain = {key: value for key, value in resolved(chosen).items() if key != "name"}
    return yaml.safe_dump({"default": "test", "recipes": {"test": plain}})


@pytest.mark.parametrize("variant", VARIANTS)
def test_clips_are_given_their_own_image_and_pictures_none(variant: str, tmp_path: Path) -> None:
    chosen = train_workspace.fill(recipe(tmp_path, variant))
    cache, stage = open_cache(chosen), chosen.stages["i"]
    clips = batch.load(cache, stage, micro(CLIP, (2, 0)))
    assert clips.given is not None and clips.given.image.shape == (2, 16, 1, 8, 8)
    samples = cache.read(CLIP, [2, 0])
    if variant == "first_frame_copy":
        for image, one in zip(clips.given.image, samples):
            assert any(torch.equal(image, draw.float()) for draw in one.conditions["noised_first_frame"])
            assert not torch.equal(image, one.conditions["first_frame"].float())
    else:
        assert torch.equal(clips.given.image[0], samples[0].conditions["first_frame"].float())
    assert batch.load(cache, stage, micro("1x64x64", (0, 1), feed=0)).given is None
    validated = conditions.validation_given(stage, CLIP, samples, cache)
    assert validated is not None and torch.equal(validated.image[1], samples[1].conditions["first_frame"].float())


def test_first_frame_copy_pads_data_and_noise_and_counts_every_frame(tmp_path: Path) -> None:
    chosen = train_workspace.fill(recipe(tmp_path, "first_frame_copy", pad_to=3))
    loaded = batch.load(open_cache(chosen), chosen.stages["i"], micro(CLIP, (0, 1)))
    assert loaded.given is not None and loaded.given.padded == 1
    assert loaded.data.shape == loaded.noise.shape == (2, 16, 3, 8, 8)
    assert torch.equal(loaded.data[:, :, 0], loaded.data[:, :, 1])
    fed = conditions.fed(loaded.data, loaded.t, loaded.given, 32)
    assert int(fed.counts.sum()) == 3 and not fed.x[:, 16:, 1:].any() and fed.x[:, 16:, 0].any()
    assert conditions.shortened(loaded.data, loaded.given).shape[2] == 2


def test_the_extra_frame_is_dropped_when_sampling(tmp_path: Path) -> None:
    rule = recipe(tmp_path, "first_frame_copy").stages["i"].image_to_video
    assert rule is not None
    given = conditions.give(rule, torch.randn(1, 16, 1, 8, 8), 21, {"latents": {"vae": {}}})
    assert given.padded == 1
    model = stages.build(train_size(), stages.Widths(16, 8, 8), 0, images=rule)
    from model.text import TextStates

    noise = torch.randn(1, 16, 22, 4, 4)
    text = TextStates(torch.randn(3, 8), torch.randn(8))
    small = given._replace(image=torch.randn(1, 16, 1, 4, 4))
    assert generate.latents(model, [text], noise, 1, 1.0, 1.0, given=small).shape == (1, 16, 21, 4, 4)


def train_size() -> dict[str, Any]:
    return {"width": 32, "heads": 2, "double_blocks": 1, "single_blocks": 1, "rope_axes": (4, 6, 6), "patch": (1, 2, 2)}


def test_a_whole_micro_batch_is_given_images_or_none_with_the_probability(tmp_path: Path) -> None:
    stage = recipe(tmp_path, "concat", probability=0.3).stages["i"]
    given = [conditions.asks(stage, CLIP, 0, 1, 0, 0, f"{i:016x}", 0) is not None for i in range(2000)]
    assert abs(sum(given) - 600) < 4 * (2000 * 0.3 * 0.7) ** 0.5
    assert conditions.asks(stage, "1x64x64", 0) is None
    plain = stage.model_copy(update={"image_to_video": None})
    assert conditions.asks(plain, CLIP, 0) is None


@pytest.mark.parametrize("variant", ["concat_mask", "concat", "first_frame_copy"])
@pytest.mark.parametrize("ofs", [False, True])
def test_a_widened_stage_begins_as_the_text_to_video_model(variant: str, ofs: bool, tmp_path: Path) -> None:
    rule = recipe(tmp_path, variant, ofs=ofs).stages["i"].image_to_video
    assert rule is not None
    widths = stages.Widths(16, 8, 8)
    before = stages.build(train_size(), widths, 0)
    with torch.no_grad():
        for one in before.parameters():
            one.add_(0.1 * torch.randn(one.shape, generator=torch.Generator().manual_seed(one.numel())))
    after = stages.build(train_size(), widths, 5, images=rule)
    after.load_state_dict(conditions.adapted(before.state_dict(), after))
    x, t = torch.randn(2, 16, 2, 4, 4), torch.tensor([0.2, 0.9])
    text, pooled = torch.randn(2, 3, 8), torch.randn(2, 8)
    given = conditions.Given(variant, torch.randn(2, 16, 1, 4, 4))
    for images in (given, None):
        fed = conditions.fed(x, t, images, after.in_channels)
        difference = after(fed.x, 1000 * fed.t, text, None, pooled) - before(x, 1000 * t, text, None, pooled)
        assert difference.abs().max() <= 1e-6
    with pytest.raises(ValueError, match="at least the"):
        conditions.adapted(after.state_dict(), before)


def test_scaling_of_the_image_latent_is_as_declared(tmp_path: Path) -> None:
    image, settings = torch.randn(1, 16, 1, 2, 2), {"latents": {"vae": {"scale": [0.7]}}}
    for how, factor in (("multiply", 1.0), ("divide", 0.7**-2)):
        rule = recipe(tmp_path, "first_frame_copy", image_latent_scaling=how).stages["i"].image_to_video
        assert rule is not None
        assert torch.allclose(conditions.give(rule, image, 2, settings).image, image * factor)


def test_a_stage_whose_cache_holds_no_images_is_refused(tmp_path: Path) -> None:
    chosen = train_workspace.recipe(tmp_path, {"image_to_video": {"variant": "first_frame_copy"}})
    with pytest.raises(
        RecipeError, match=r"needs first_frame and noised_first_frame in the cache: set cache.conditions"
    ):
        stages.stage_of(chosen, "s")


def test_image_needs_a_stage_that_knows_images(tmp_path: Path) -> None:
    chosen = recipe(tmp_path, "concat")
    shape = sample.Shape(5, 64, 64, 8.0)
    with pytest.raises(RecipeError, match="makes no video of images"):
        sample._moving(chosen.stages["s"], "s", [shape])
    assert sample._moving(chosen.stages["i"], "i", [sample.Shape(1, 64, 64, None), shape]) == [shape]


def test_checkpoint_of_a_variant_names_it(tmp_path: Path) -> None:
    chosen = train_workspace.fill(recipe(tmp_path, "concat", {"steps": 1}))
    trained(chosen, "s", "i")
    found = checkpoint.latest(stages.run_folder(chosen, "i"))
    assert found is not None and found.state["fixed"]["image_to_video"]["variant"] == "concat"
    other = recipe(tmp_path, "concat_mask", {"steps": 2})
    with pytest.raises(RecipeError, match="trained on something else"):
        trained(other, "i")
    assert Bucket.parse(CLIP).frames == 5
