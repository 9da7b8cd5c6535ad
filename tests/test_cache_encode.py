"""Encoding a small workspace of real files: what is in the shards, what a second run does, what changes what."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import cache_workspace as ws
import numpy as np
import pytest
import safetensors.torch
import scipy.stats
import torch

from cache import index as tables
from cache.buckets import Bucket
from cache.crew import Crew
from cache.encode import LOG_SIGMA, noise_of, to_video
from cache.encode_latents import app
from cache.estimate import estimate
from cache.fingerprint import CacheError, latent_settings, text_settings
from cache.pixels import Crop, read_pixels
from cache.plan import Item
from cache.read import open_cache
from cache.update import Options, Summary, assist, update
from model import codec
from model.bytes_text import BytesText
from pipelines import Recipe, RecipeError, fingerprint

HERE = Options(workers=0, device="cpu")


def run(chosen: Recipe, options: Options = HERE) -> Summary:
    return update(chosen, options, lambda line: None)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return ws.footage(tmp_path_factory.mktemp("footage"))


@pytest.fixture
def chosen(tmp_path: Path, files: list[dict[str, Any]]) -> Recipe:
    return ws.fill(ws.recipe(tmp_path), files)


def test_every_sample_is_the_codec_of_its_pixels(chosen: Recipe, files: list[dict[str, Any]]) -> None:
    summary = run(chosen)
    assert (summary.encoded, summary.failed) == (10, 0)
    cache = open_cache(chosen)
    paths = {row["clip_id"]: row["path"] for row in files}
    seen = 0
    for name in cache.buckets:
        for sample in cache.read(name, range(len(cache.index(name)))):
            bucket = Bucket.parse(name)
            pixels = read_pixels(paths[sample.clip_id], 0.0, Crop(), bucket)
            expected = codec.encode(to_video(pixels[None]))[0].bfloat16()
            assert torch.equal(sample.latent, expected) and sample.latent.shape == bucket.latent_shape(16)
            seen += 1
    assert seen == 10


def test_text_states_are_those_of_the_captions(chosen: Recipe) -> None:
    run(chosen)
    cache = open_cache(chosen)
    (sample,) = cache.read(cache.buckets[0], [0])
    number = next(row for row in cache.view("picture").to_pylist() if row["clip_id"] == sample.clip_id)
    assert number["bucket"] == cache.buckets[0]
    assert len(sample.texts) == 2
    expected = BytesText(256).encode(["colour"])[0]
    assert torch.equal(sample.texts[1].states, expected.states.bfloat16())
    assert torch.equal(sample.texts[1].pooled, expected.pooled.bfloat16())
    assert (cache.text_width, cache.pooled_width, cache.channels) == (128, 128, 16)


def test_a_second_run_makes_nothing(chosen: Recipe) -> None:
    folder = Path(run(chosen).folder)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*.*") if path.is_file()}
    again = run(chosen)
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*.*") if path.is_file()}
    assert (again.encoded, again.text, again.text_tars) == (0, (0, 0), 0)
    assert {k: v for k, v in after.items() if k.suffix != ".lock"} == {
        k: v for k, v in before.items() if k.suffix != ".lock"
    }


def test_bytes_do_not_depend_on_workers_or_place(files: list[dict[str, Any]], tmp_path: Path) -> None:
    found = []
    for workers in (0, 1, 2):
        chosen = ws.fill(ws.recipe(tmp_path / str(workers)), files)
        found.append(ws.shard_bytes(run(chosen, Options(workers=workers, device="cpu")).folder))
    assert found[0] == found[1] == found[2] and len(found[0]) >= 6


def test_plain_webdataset_reads_the_shards(chosen: Recipe) -> None:
    """The snippet of docs/cache.md."""
    import webdataset as wds

    folder = Path(run(chosen).folder)
    bucket = tables.buckets(str(folder))[0]
    count = len(tables.read_table(tables.index_path(str(folder), bucket), tables.INDEX))
    urls = [str(path) for path in sorted((folder / bucket).glob("shard-?????.tar"))]
    samples = list(wds.WebDataset(urls, shardshuffle=False, nodesplitter=wds.split_by_node))
    assert len(samples) == count
    for sample in samples:
        facts = json.loads(sample["json"])
        latent = safetensors.torch.load(sample["safetensors"])["latent"]
        assert facts["clip_id"] == sample["__key__"] and facts["bucket"] == bucket
        assert tuple(latent.shape) == Bucket.parse(bucket).latent_shape(16)


def test_tars_have_fixed_metadata_and_the_index_finds_the_tensors(chosen: Recipe) -> None:
    folder = run(chosen).folder
    for bucket in tables.buckets(folder):
        for row in tables.read_table(tables.index_path(folder, bucket), tables.INDEX).to_pylist():
            data = Path(folder, bucket, tables.shard_name(row["shard"])).read_bytes()
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                member = tar.getmember(f"{row['key']}.safetensors")
                assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
                assert (member.offset_data, member.size) == (row["offset"], row["bytes"])


def test_new_clips_go_to_new_shards_and_old_ones_stay(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    chosen = ws.fill(ws.recipe(tmp_path), files[:4] + files[6:8])
    folder = run(chosen).folder
    before = {name: data for name, data in ws.shard_bytes(folder).items() if ".text" not in name}
    ws.fill(chosen, files)
    assert estimate(chosen)["samples"] != {}
    summary = run(chosen)
    after = ws.shard_bytes(folder)
    assert summary.encoded == 4 and len(after) > len(before)
    assert all(after[name] == data for name, data in before.items())
    assert sum(len(open_cache(chosen).index(bucket)) for bucket in open_cache(chosen).buckets) == 10


def test_the_index_knows_how_long_the_states_of_each_caption_are(chosen: Recipe) -> None:
    run(chosen)
    cache = open_cache(chosen)
    for bucket in cache.buckets:
        lengths = cache.text_lengths(bucket).to_pylist()
        samples = cache.read(bucket, range(len(lengths)))
        assert lengths == [[len(text.states) for text in one.texts] for one in samples]


def test_an_index_of_texts_that_is_lost_or_of_an_older_form_is_made_again_from_the_tars(chosen: Recipe) -> None:
    run(chosen)
    cache = open_cache(chosen)
    paths = [tables.text_index_path(cache.folder, bucket, cache.text) for bucket in cache.buckets]
    before = [tables.read_table(path, tables.TEXT_INDEX) for path in paths]
    tables.write_table(paths[0], before[0].drop_columns(["lengths"]))
    Path(paths[1]).unlink()
    run(chosen)
    assert [tables.read_table(path, tables.TEXT_INDEX) for path in paths] == before


def test_new_captions_make_new_text_tars_and_no_latents(chosen: Recipe, files: list[dict[str, Any]]) -> None:
    folder = run(chosen).folder
    before = ws.shard_bytes(folder)
    texts = {row["clip_id"]: [f"clip {row['video_id'][-2:]} in colour", "colour"] for row in files}
    changed = files[0]["clip_id"]
    texts[changed] = ["a new caption", "colour"]
    ws.fill(chosen, files, texts)
    summary = run(chosen)
    after = ws.shard_bytes(folder)
    assert (summary.encoded, summary.text_tars, summary.text.computed) == (0, 1, 1)
    assert all(after[name] == data for name, data in before.items())  # who reads the old index still can
    cache = open_cache(chosen)
    row = next(row for row in cache.view("clip").to_pylist() if row["clip_id"] == changed)
    at = cache.index(row["bucket"])["clip_id"].to_pylist().index(changed)
    (sample,) = cache.read(row["bucket"], [at])
    assert torch.equal(sample.texts[0].states, BytesText().encode(["a new caption"])[0].states.bfloat16())


def test_equal_captions_are_computed_once(chosen: Recipe) -> None:
    summary = run(chosen)
    assert summary.text.computed == 11  # ten of their own, one that all share


def test_a_file_that_cannot_be_read_costs_its_samples(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    clips = [*files, ws.clip(99, "video", str(broken), 14, 96, 64)]
    chosen = ws.fill(ws.recipe(tmp_path), clips)
    summary = run(chosen)
    assert (summary.encoded, summary.failed) == (10, 1)
    view = open_cache(chosen).view("clip").to_pylist()
    assert len(view) == 7 and sum(row["bucket"] is None for row in view) == 1
    reason = next(row["reason"] for row in view if row["bucket"] is None)
    assert "could not be read" in reason and "broken.mp4" in reason
    assert run(chosen).encoded == 0  # and it is not tried at every run
    broken.write_bytes(Path(files[0]["path"]).read_bytes())
    retried = run(chosen, HERE._replace(retry_failed=True))
    assert (retried.encoded, retried.failed) == (1, 0)
    assert all(row["bucket"] for row in open_cache(chosen).view("clip").to_pylist())


def test_a_sample_with_another_start_or_crop_takes_the_place_of_the_old(
    tmp_path: Path, files: list[dict[str, Any]]
) -> None:
    chosen = ws.fill(ws.recipe(tmp_path), files)
    run(chosen)
    moved = [row | {"start_tick": 1024, "start_s": 1024 / 12288} if row is files[0] else row for row in files]
    ws.fill(chosen, moved)
    assert run(chosen).encoded == 1
    cache = open_cache(chosen)
    row = next(row for row in cache.view("clip").to_pylist() if row["clip_id"] == files[0]["clip_id"])
    assert row["start_tick"] == 1024
    pairs = [(r["clip_id"], r["start_tick"]) for r in cache.index(row["bucket"]).to_pylist()]
    assert (row["clip_id"], 1024) in pairs and len(pairs) == len(set(pairs))


def test_all_spans_of_a_clip_are_samples(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    views = ws.DEFAULTS["views"] | {"clip": {"size": 64, "frames": 5, "fps": 24.0, "aspects": ["3:2"], "span": "all"}}
    chosen = ws.fill(ws.recipe(tmp_path, views=views), files)
    run(chosen)
    cache = open_cache(chosen)
    assert len(cache.index("5x48x80-24fps")) == 12  # 14 frames hold two spans of 5
    keys = cache.index("5x48x80-24fps")["key"].to_pylist()
    assert len(set(keys)) == 12 and sum("-" in key for key in keys) == 6


def test_conditions_are_encoded_from_the_first_frame_alone(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    more = ws.DEFAULTS["cache"] | {"conditions": ["first_frame", "noised_first_frame"], "noise_draws": 3}
    chosen = ws.fill(ws.recipe(tmp_path, cache=more), files)
    run(chosen)
    cache = open_cache(chosen)
    bucket = next(name for name in cache.buckets if name.startswith("9x"))
    (sample,) = cache.read(bucket, [0])
    path = next(row["path"] for row in files if row["clip_id"] == sample.clip_id)
    first = to_video(read_pixels(path, 0.0, Crop(), Bucket.parse(bucket))[None, :1])
    assert torch.equal(sample.conditions["first_frame"], codec.encode(first)[0].bfloat16())
    sigmas, noised = sample.conditions["sigmas"], sample.conditions["noised_first_frame"]
    assert sigmas.shape == (3,) and noised.shape == (3, *sample.conditions["first_frame"].shape)
    away = [float((one.float() - sample.conditions["first_frame"].float()).std()) for one in noised]
    assert np.argsort(away).tolist() == np.argsort(sigmas.numpy()).tolist()  # more noise, further away


def test_noise_of_the_condition_image_is_cogvideos_and_belongs_to_its_clip() -> None:
    """sigma = exp(N(-3, 0.5)) on 2,400 draws of 600 clips, and the same for a clip whatever is drawn beside it."""
    items = [Item(f"{i:016x}", f"{i * 7919:016x}", i % 3, 0.0, "", Crop()) for i in range(600)]
    drawn = [noise_of(item, 4, torch.Size((3, 1, 4, 4))) for item in items]
    logs = torch.cat([sigmas for sigmas, _ in drawn]).double().log().numpy()
    assert len(logs) == 2400 and scipy.stats.kstest(logs, "norm", args=LOG_SIGMA).pvalue > 0.01
    assert abs(logs.mean() + 3) < 4 * 0.5 / 2400**0.5 and abs(logs.std() - 0.5) < 0.03
    noise = torch.stack([one for _, one in drawn]).flatten()
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    sigmas, again = noise_of(items[7], 4, torch.Size((3, 1, 4, 4)))
    assert torch.equal(sigmas, drawn[7][0]) and torch.equal(again, drawn[7][1])
    assert not torch.equal(drawn[8][0], sigmas)
    moved = noise_of(items[7]._replace(start_tick=99), 4, torch.Size((3, 1, 4, 4)))
    assert not torch.equal(moved[0], sigmas)


def test_a_view_that_ends_up_empty_is_an_error_before_encoding(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    views = ws.DEFAULTS["views"] | {"clip": {"size": 64, "frames": 129, "fps": 24.0}}
    chosen = ws.fill(ws.recipe(tmp_path, views=views), files)
    with pytest.raises(RecipeError, match=r"views\.clip: no clip of videos fits it \(6 too short\)"):
        run(chosen)
    assert not list(tmp_path.rglob("*.tar"))


def test_a_foreign_cache_is_refused_with_the_difference(chosen: Recipe) -> None:
    run(chosen)
    other = chosen.model_copy(update={"cache": chosen.cache.model_copy(update={"dtype": "float16"})})
    with pytest.raises(CacheError, match="dtype: asked for 'float16', there is 'bfloat16'"):
        open_cache(other)
    other = chosen.model_copy(update={"cache": chosen.cache.model_copy(update={"text_length": 7})})
    with pytest.raises(CacheError, match="length: asked for 7, there is 256"):
        open_cache(other)


@pytest.mark.parametrize("change", [{"logvar": True}, {"dtype": "float32"}, {"conditions": ("first_frame",)}])
def test_what_changes_bytes_changes_the_fingerprint(tmp_path: Path, change: dict[str, Any]) -> None:
    chosen = ws.recipe(tmp_path)
    other = chosen.model_copy(update={"cache": chosen.cache.model_copy(update=change)})
    assert fingerprint(latent_settings(chosen)) != fingerprint(latent_settings(other))


@pytest.mark.parametrize(
    "rule", ["cache.pixels.PIXEL_VERSION", "media.frames.FRAMES_VERSION", "media.colour.COLOUR_VERSION"]
)
def test_a_changed_rule_of_pixels_changes_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    before = fingerprint(latent_settings(ws.recipe(tmp_path)))
    monkeypatch.setattr(rule, 99)
    assert fingerprint(latent_settings(ws.recipe(tmp_path))) != before


def test_another_frame_rate_is_another_bucket(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    chosen = ws.fill(ws.recipe(tmp_path), files)
    run(chosen)
    slow = ws.DEFAULTS["views"] | {"clip": ws.DEFAULTS["views"]["clip"] | {"frames": 5, "fps": 12.0}}
    other = ws.recipe(tmp_path, views=slow)
    assert latent_settings(other) == latent_settings(chosen) and run(other).encoded == 6
    assert {name.split("-")[1] for name in open_cache(other).buckets if "-" in name} == {"24fps", "12fps"}


def test_sets_thresholds_and_places_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    one = ws.recipe(tmp_path / "a")
    sets = {"images": {"media": "image", "keep": {"sharpness": {"min": 9.0}}}, "videos": {"media": "video"}}
    assert latent_settings(ws.recipe(tmp_path / "b", sets=sets, footage=["x"])) == latent_settings(one)


def test_what_does_not_change_bytes_does_not(tmp_path: Path) -> None:
    chosen, other = (
        ws.recipe(tmp_path / "a"),
        ws.recipe(tmp_path / "b", cache={"shard_bytes": 7, "caption_variants": 9}),
    )
    assert latent_settings(chosen) == latent_settings(other)
    assert text_settings(chosen) == text_settings(other)


def test_a_stage_encodes_what_it_needs_and_keeps_the_rows_of_others(chosen: Recipe) -> None:
    assert run(chosen, HERE._replace(stage="pictures")).encoded == 4
    assert run(chosen).encoded == 6
    run(chosen, HERE._replace(stage="pictures"))
    assert len(open_cache(chosen).view("clip")) == 6


def test_command_dry_run_run_and_errors(chosen: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(ws.config(chosen, tmp_path / "p.yaml"))]

    def told(*arguments: str) -> dict[str, Any]:
        assert ws.leave(app, *config, *arguments, "--json") == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    dry = told("--dry-run")
    assert sum(dry["samples"].values()) == 10 and dry["hours"] is None
    assert not list(tmp_path.rglob("*.tar"))
    assert told("--stage", "pictures", "--workers", "0")["encoded"] == 4
    assert told("--dry-run")["hours"] > 0
    assert told("--workers", "0")["encoded"] == 6 and told("--dry-run")["hours"] == 0
    for arguments, code, words in (
        (["--stage", "nope"], 2, "no such stage"),
        (["--set", "cache.vea=codec"], 2, "did you mean 'vae'"),
        (["--set", "cache.vae=/no/where"], 2, "no such folder"),
        (["--set", "cache.conditions=[image_tokens]"], 2, "must be the folder of a LLaVA"),
        (["--workspace", str(tmp_path / "elsewhere")], 2, "run `curate` first"),
    ):
        assert ws.leave(app, *config, *arguments) == code
        said = capsys.readouterr().err
        assert said.startswith("error: ") and words in said and said.count("\n") == 1


def test_processes_of_a_crew_make_the_same_shards(tmp_path: Path, files: list[dict[str, Any]]) -> None:
    """Two shares, one after the other as two processes would, then the first one's tables."""
    small = ws.DEFAULTS["cache"] | {"shard_bytes": 15_000}
    alone = run(ws.fill(ws.recipe(tmp_path / "alone", cache=small), files))
    chosen = ws.fill(ws.recipe(tmp_path / "crew", cache=small), files)

    class First(Crew):
        def planned(self) -> None:
            for rank in (1, 2):
                assist(chosen, HERE, Crew(rank, 3))

    together = update(chosen, HERE, lambda line: None, crew=First(0, 3))
    assert ws.shard_bytes(together.folder) == ws.shard_bytes(alone.folder)
    assert (together.encoded, together.buckets) == (alone.encoded, alone.buckets)
    assert len(open_cache(chosen).read(open_cache(chosen).buckets[0], [0])) == 1
