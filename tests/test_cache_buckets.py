"""Buckets: HunyuanVideo's list, names, shapes, tokens, and which clip goes where."""

import itertools

import pytest

from cache.buckets import Bucket, Size, cropped, fewest, frames_within, nearest, sizes, staircase, times
from cache.ledger import Clip, place
from cache.pixels import Crop
from pipelines import RecipeError, View


def clip(**more: object) -> Clip:
    facts = {"clip_id": "a" * 16, "path": "x.mp4", "media": "video", "start_s": 0.0, "end_s": 2.0, "start_tick": 100,
             "tick_s": 1 / 600, "width": 640, "height": 360, "crop": Crop()}  # fmt: skip
    return Clip(**(facts | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("base", "patch", "count"),
    [(256, 16, 49), (360, 16, 67), (480, 16, 91), (512, 16, 97), (540, 32, 49), (720, 32, 67), (960, 32, 91)],
)
def test_hunyuan_has_so_many_sizes(base: int, patch: int, count: int) -> None:
    found = staircase(base, patch)
    assert len(found) == len(set(found)) == count
    assert all(side % patch == 0 for size in found for side in size)
    assert all(size.height * size.width <= base * base * 1.05 for size in found)
    assert all(0.25 <= size.aspect <= 4 for size in found)


def test_hunyuan_runs_from_wide_to_tall_and_is_its_own_mirror_at_the_ends() -> None:
    found = staircase(256)
    assert (found[0], found[-1]) == (Size(128, 512), Size(512, 128))
    assert found == sorted(found, key=lambda size: -size.aspect)


def test_staircase_against_a_walk_down_the_stairs() -> None:
    """The list as it is usually made: start with the widest row, go up while the area allows, else one narrower."""
    for base, patch in ((256, 16), (540, 32)):
        area = round((base / patch) ** 2)
        walked, width, height = [], area, 1
        while width > 0:
            if max(width, height) / min(width, height) <= 4:
                walked.append(Size(height * patch, width * patch))
            if width * (height + 1) <= area:
                height += 1
            else:
                width -= 1
        assert staircase(base, patch) == walked


@pytest.mark.parametrize("bucket", [Bucket(17, 256, 256, 24.0), Bucket(1, 256, 320), Bucket(129, 544, 960, 23.976)])
def test_names_come_back(bucket: Bucket) -> None:
    assert Bucket.parse(bucket.name) == bucket


def test_names_are_those_of_the_design() -> None:
    assert Bucket(17, 256, 256, 24.0).name == "17x256x256-24fps"
    assert Bucket(1, 256, 256).name == "1x256x256"
    with pytest.raises(ValueError, match="no bucket"):
        Bucket.parse("views")


@pytest.mark.parametrize(
    ("shape", "tokens"),
    [((1, 256, 256), 256), ((65, 256, 256), 4352), ((129, 544, 960), 67320), ((129, 720, 1280), 118800)],
)
def test_tokens_of_published_sizes(shape: tuple[int, int, int], tokens: int) -> None:
    assert Bucket(*shape, 24.0).tokens() == tokens


def test_latent_shape() -> None:
    assert Bucket(129, 720, 1280, 24.0).latent_shape(16) == (16, 33, 90, 160)


def test_lists_and_squares() -> None:
    assert sizes(View(size=256, aspects="square")) == [Size(256, 256)]
    assert sizes(View(size=256, aspects=("16:9", "1:1", "192x320"))) == [
        Size(192, 336), Size(192, 320), Size(256, 256)
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="9x16"):
        sizes(View(size=256, aspects=("9x16",)))
    with pytest.raises(RecipeError, match="multiple of 8"):
        sizes(View(size=256, patch=12))


def test_nearest_is_the_smallest_difference() -> None:
    candidates = [Size(64, 128), Size(64, 64), Size(128, 64)]
    assert nearest(candidates, 1.4) == Size(64, 64)
    assert nearest(candidates, 1.6) == Size(64, 128)
    assert nearest(candidates, 0.74) == Size(128, 64)


def test_fewest_is_the_fewest() -> None:
    """Against trying every subset."""
    candidates = staircase(128)
    aspects = [0.56, 0.75, 1.0, 1.02, 1.33, 1.5, 1.78, 1.85]
    chosen = fewest(candidates, aspects, max_crop=0.1)
    covers = lambda sizes: all(any(cropped(size, a) <= 0.1 for size in sizes) for a in aspects)  # noqa: E731
    assert covers(chosen)
    assert not any(covers(subset) for subset in itertools.combinations(candidates, len(chosen) - 1))


def test_fewest_keeps_what_holds_samples_and_leaves_nobody_out() -> None:
    held = Size(128, 128)
    assert held in fewest(staircase(128), [1.0, 9.0], [held])
    assert fewest(staircase(128), [1.0, 9.0], [held])[0] == staircase(128)[0]


@pytest.mark.parametrize("fps", [24.0, 23.976, 29.97, 30.0, 60.0])
@pytest.mark.parametrize("frames", [1, 5, 17, 129])
@pytest.mark.parametrize("start", [0.0, 0.1, 7.3, 3601.123])
def test_as_many_times_as_fit(fps: float, frames: int, start: float) -> None:
    """A clip of exactly n frames holds n; the last of their times lies inside, the next one doesn't."""
    end = start + frames / fps
    assert frames_within(start, end, fps) == frames
    assert frames_within(start, end + 0.4 / fps, fps) == frames + 1
    assert times(start, frames, fps)[-1] < end


def test_an_empty_clip_holds_nothing() -> None:
    assert frames_within(1.0, 1.0, 24.0) == frames_within(2.0, 1.0, 24.0) == 0


def test_every_clip_has_a_bucket_or_a_reason() -> None:
    view = View(size=256, frames=17, fps=24.0)
    clips = [clip(), clip(clip_id="b", end_s=0.5), clip(clip_id="c", media="image", end_s=0.0)]
    rows = place(clips, view)
    assert [one.bucket.name if one.bucket else None for one in rows] == ["17x192x336-24fps", None, None]
    assert rows[1].reason == "too short: 0.500 s hold 12 frames at 24 fps, not 17"
    assert rows[2].reason == "an image: the view has 17 frames"


def test_borders_are_cut_before_the_aspect_is_taken() -> None:
    letterboxed = clip(height=480, crop=Crop(0, 60, 0, 60))
    (row,) = place([letterboxed], View(size=256, aspects=("4:3", "16:9")))
    assert row.bucket is not None and row.bucket.name == "1x192x336"


def test_spans_of_a_long_clip() -> None:
    long = clip(end_s=1.0)  # 24 frames at 24 fps
    take = lambda span: place([long], View(size=64, frames=9, fps=24.0, aspects="square", span=span))  # noqa: E731
    assert [one.start_tick for one in take("head")] == [100]
    assert [one.start_tick for one in take("all")] == [100, 100 + round(9 / 24 * 600)]
    (drawn,) = take("random")
    assert take("random") == [drawn]
    assert 0 <= drawn.start_s <= 15 / 24 + 1e-9
    assert abs(drawn.start_s - (drawn.start_tick - 100) / 600) < 1e-9
    starts = {place([clip(clip_id=f"{i}")], View(size=64, frames=9, fps=24.0, span="random"))[0].start_tick
              for i in range(40)}  # fmt: skip
    assert len(starts) > 15
