"""Sound from a film to a loss: what the cache stores of it, the scorer that is trained on it, a stage that hears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cache_workspace as ws
import numpy as np
import pytest
import torch

from cache.fingerprint import latent_settings
from cache.read import open_cache
from cache.update import Options, update
from examples import beats
from media.sound import read_sound
from media.write import write_mp4
from model.sync import BANDS, RATE, STEPS, SyncPair, load_sync, sound_features
from model.vae import load_vae
from pipelines import Recipe, RecipeError, fingerprint
from tests.test_train_i2v import micro
from tests.test_train_resume import ALONE, OPTIONS, StopAfter, losses
from train import batch, loop, stages, sync

pytestmark = pytest.mark.usefixtures("one_thread")
CLIP = "17x64x64-24fps"
FILMS = 12


def recipe(folder: Path, cache: dict[str, Any] | None = None, **more: Any) -> Recipe:
    stage = {
        "feeds": [{"set": "videos", "view": "clip"}], "tokens": 160, "steps": 2, "lr": 1e-3, "start": "scratch",
        "validate_every": 100,
    }  # fmt: skip
    return ws.recipe(
        folder, views={"clip": {"size": 64, "frames": 17, "fps": ws.FPS, "aspects": "square"}}, model="tiny",
        sets={"videos": {"media": "video"}}, stages={"s": stage | more},
        cache={"caption_variants": 1, "shard_bytes": 200_000, "conditions": ["sound"]} | (cache or {}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Films with beats and one without sound, encoded by the cache's own command with readers of their own."""
    folder = tmp_path_factory.mktemp("beats")
    rows = []
    for number in range(FILMS):
        chance = np.random.default_rng([1, number])
        times = beats.beats(chance)
        path, start_s = folder / f"film{number}.mp4", 0.25 * (number % 5)
        beats.write(path, beats.pictures(chance, times), beats.tones(chance, times))
        rows.append(
            ws.clip(number + 1, "video", str(path), 72, 128, 96, start_s=start_s, start_tick=int(start_s * 12288))
        )
    write_mp4(str(folder / "mute.mp4"), ws.drawn(0, 24, 96, 128), ws.FPS)
    rows.append(ws.clip(FILMS + 1, "video", str(folder / "mute.mp4"), 24, 128, 96))
    chosen = ws.fill(recipe(folder), rows)
    update(chosen, Options(workers=1, device="cpu"), lambda line: None)
    return chosen


def path_of(chosen: Recipe, clip_id: str) -> tuple[str, float]:
    folder = Path(chosen.workspace).parent
    for number in range(FILMS + 1):
        if clip_id == ws.clip(number + 1, "video", "", 1, 1, 1)["clip_id"]:
            return str(folder / (f"film{number}.mp4" if number < FILMS else "mute.mp4")), 0.25 * (number % 5) * (
                number < FILMS
            )
    raise KeyError(clip_id)


def test_the_cache_holds_what_is_heard_at_the_clips_times(encoded: Recipe) -> None:
    cache = open_cache(encoded)
    samples = cache.read(CLIP, range(FILMS + 1))
    assert len({one.clip_id for one in samples}) == FILMS + 1
    for one in samples:
        path, start_s = path_of(encoded, one.clip_id)
        wave = torch.from_numpy(read_sound(path, start_s, round(17 / 24 * RATE), RATE))[None]
        assert one.conditions["sound"].shape == (BANDS, STEPS * 17)
        wanted = sound_features(wave, RATE, 24.0, 17)[0]
        assert torch.equal(one.conditions["sound"], wanted.to(torch.bfloat16))
        assert (float(wanted.max()) > 0.3) == ("mute" not in path)
    assert fingerprint(latent_settings(encoded)) != fingerprint(
        latent_settings(recipe(Path("/no"), cache={"conditions": []}))
    )
    gathered = cache.gather(CLIP, [3, 1])
    assert torch.equal(gathered.conditions["sound"][1], samples[1].conditions["sound"])


def test_silent_clips_are_left_out_and_windows_stay_inside(encoded: Recipe) -> None:
    cache = open_cache(encoded)
    from train.data import stage_pools

    feeds = stage_pools(cache, encoded.stages["s"], stages.cost_of(encoded))
    heard = sync.sounding(cache, feeds, "train")
    assert len(heard) == FILMS
    drawn = [sync.draw(heard, 2, "test", k) for k in range(2000)]
    assert abs(sum(one.together for one in drawn) - 1000) < 4 * 500**0.5
    assert abs(sum(one.picture != one.sound for one in drawn) - 500) < 4 * 375**0.5
    assert {one.start for one in drawn} == {0, 1, 2, 3}
    for one in drawn[:50]:
        window = sync._heard(heard[one.sound], one, 2)
        assert window.shape == (BANDS, STEPS * 5)
        if not one.turned:
            first = STEPS * 4 * one.start
            assert torch.equal(window, heard[one.sound].conditions["sound"].float()[:, first : first + STEPS * 5])


@pytest.mark.slow
def test_the_scorer_learns_from_a_cache(encoded: Recipe, tmp_path: Path, capsys) -> None:
    config, out = ws.config(encoded, tmp_path / "pipelines.yaml"), str(tmp_path / "sync.safetensors")
    sync.main(stage="s", out=out, steps=60, batch=16, latents=5, lr=3e-3, seed=0, config=str(config), device="cpu")
    told = capsys.readouterr().out
    assert f"{FILMS} clips with sound" in told and float(told.split(": ")[-1].split("%")[0]) > 65, told

    assert load_sync(out)(torch.zeros(2, 3, 17, 64, 64), torch.zeros(2, BANDS, STEPS * 17)).shape == (2,)


def test_a_stage_hears_with_a_scorer(encoded: Recipe, tmp_path: Path) -> None:
    out = str(tmp_path / "sync.safetensors")
    torch.manual_seed(0)
    sync.save(SyncPair(), out)
    hearing: dict[str, Any] = {"losses": {"sync": 0.5, "sync_scorer": out, "decode_frames": 5}}
    chosen = recipe(Path(encoded.workspace).parent, **hearing)
    loaded = batch.load(open_cache(chosen), chosen.stages["s"], micro(CLIP, (0, 1), feed=0))
    assert loaded.sound is not None and loaded.sound.shape == (2, BANDS, STEPS * 17)
    trained = []
    for more in ({}, hearing):
        stage = recipe(Path(encoded.workspace).parent, **more)
        loop.train_stage(stage, "s", ALONE, StopAfter(), OPTIONS._replace(fresh=True))
        trained.append(losses(Path(stage.workspace) / "runs" / "s"))
    (_, deaf), (_, heard) = (one[0] for one in trained)
    assert heard > deaf + 0.01


def test_a_scorer_depends_on_its_seed_alone(encoded: Recipe) -> None:
    clips, show = open_cache(encoded).read(CLIP, range(4)), sync.Show(load_vae("codec"), torch.device("cpu"))
    first, again, other = (sync.train(show, clips, 5, 2, 2, 1e-3, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["picture_out.weight"], other["picture_out.weight"])


def test_what_is_missing_is_named(encoded: Recipe, tmp_path: Path) -> None:
    deaf = recipe(tmp_path, cache={"conditions": ["first_frame"]}, losses={"sync": 0.1, "sync_scorer": "x"})
    with pytest.raises(RecipeError, match=r"set cache.conditions to \[first_frame, sound\]"):
        stages.stage_of(deaf, "s")
    config = ws.config(recipe(tmp_path, cache={"conditions": []}), tmp_path / "pipelines.yaml")
    with pytest.raises(RecipeError, match="must hold `sound`"):
        sync.main(stage="s", out=str(tmp_path / "x"), config=str(config), device="cpu")
