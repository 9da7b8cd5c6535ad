"""Captions: sidecars in every state, measured ones that say no more than was measured, renderings."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from curate import caption, colours
from curate.caption import Caption

FULL = Caption(
    short="A cat sleeps", dense="A grey cat sleeps on a red sofa in the sun.", background="a living room",
    style="home video", shot_type="close-up", lighting="soft daylight", atmosphere="calm", camera="static",
    tags=("sidecar", "high quality"),
)  # fmt: skip
CLIP = {"media": "video", "width": 640, "height": 360, "start_s": 1.0, "end_s": 4.5}


def test_text_sidecar() -> None:
    assert caption.from_sidecar("a red car\n", ".txt") == Caption(short="a red car")
    two = caption.from_sidecar("\ufeffa red car\n\n It drives\nfast. ", ".txt")
    assert (two.short, two.dense) == ("a red car", "a red car It drives fast.")


def test_json_sidecar_and_its_round_trip() -> None:
    assert caption.from_sidecar(FULL.model_dump_json(), ".json") == FULL
    others = caption.from_sidecar('{"caption": "a red car", "fps": 25, "tags": "toy", "style": null}', ".json")
    assert others == Caption(short="a red car", tags=("toy",))
    assert caption.from_sidecar('{"dense": "a long story"}', ".json").short == "a long story"


def test_tags_of_a_sidecar_may_be_an_object() -> None:
    found = caption.from_sidecar('{"short": "a", "tags": {"quality": "high", "source": "phone"}}', ".json")
    assert found.tags == ("high quality", "phone source")


SHOTS = {
    "short": "Two animals.", "dense": "A cat, then a dog.", "style": "home video", "camera": "static",
    "shots": [{"start_s": 0.0, "end_s": 2.0, "short": "A cat."},
              {"start_s": 2.0, "end_s": 9, "dense": "A dog runs.", "camera": "pan left"},
              {"start_s": 9.0, "end_s": 10.0, "lighting": "dim"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0.0, 1.9), Caption(short="A cat.", style="home video", camera="static")),
        ((1.0, 6.0), Caption(short="A dog runs.", dense="A dog runs.", style="home video", camera="pan left")),
        ((9.1, 10.0), Caption(short="Two animals.", dense="A cat, then a dog.", style="home video", camera="static",
                              lighting="dim")),
        ((8.0, 40.0), Caption(short="Two animals.", dense="A cat, then a dog.", style="home video", camera="static")),
        (None, Caption(short="Two animals.", dense="A cat, then a dog.", style="home video", camera="static")),
    ],
)  # fmt: skip
def test_a_clip_takes_the_fields_of_the_shot_it_lies_in(span: tuple[float, float] | None, expected: Caption) -> None:
    assert caption.from_sidecar(json.dumps(SHOTS), ".json", span) == expected
    if span is not None:
        clip = CLIP | {"start_s": span[0], "end_s": span[1]}
        assert caption.describe(clip, {}, (json.dumps(SHOTS), ".json")) == (expected, "sidecar", None)


@pytest.mark.parametrize("shots", [{}, [3], [{"start_s": 1, "end_s": 1}], [{"start_s": "0", "end_s": 1}], [{}]])
def test_shots_without_times_are_told(shots: object) -> None:
    said = caption.describe(CLIP, {}, (json.dumps({"short": "a", "shots": shots}), ".json")).reason
    assert said is not None and "start_s < end_s" in said


@pytest.mark.parametrize(
    ("text", "suffix", "said"),
    [
        ("{", ".json", "not JSON"),
        ("[1]", ".json", "a JSON object"),
        ('{"fps": 25}', ".json", "at least one of short"),
        ('{"short": 3}', ".json", "short: input should be a valid string"),
        ('{"short": "a", "tags": 4}', ".json", "tags"),
        (" \n ", ".txt", "is empty"),
        ("a", ".srt", "must be .txt or .json"),
    ],
)
def test_a_bad_sidecar_says_why_and_falls_back_to_what_was_measured(text: str, suffix: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        caption.from_sidecar(text, suffix)
    found = caption.describe(CLIP, {"motion": 0.0}, (text, suffix))
    assert found.source == "measured" and found.reason and said in found.reason
    assert found.caption == caption.measured(CLIP, {"motion": 0.0})


def test_measured_says_no_more_than_was_measured() -> None:
    assert caption.measured({"media": "video"}, {}) == Caption(short="A video clip.", tags=("measured",))
    scores = {"brightness": 0.1, "colourfulness": 60.0, "motion": 40.0, "people": 2, "contrast": 0.3, "text": 0.0}
    said = caption.measured(CLIP, scores)
    assert said.short == "A dark, colourful fast video clip with 2 people."
    assert said.dense == "A single landscape shot of 3.5 seconds." and said.lighting == "high contrast"
    assert said.camera is None
    assert caption.measured(CLIP, {"colours": ["teal", "grey", "sand"], "text": 0.1}).short == (
        "A video clip in teal, grey and sand with writing."
    )
    assert caption.measured(CLIP, {"colours": ["red"]}).short == "A video clip in red."
    assert caption.measured(CLIP, {"colours": []}).short == "A video clip."
    image = caption.measured({**CLIP, "media": "image"}, scores)
    assert "fast" not in image.short and image.camera is None and "seconds" not in (image.dense or "")


def test_only_a_confident_camera_is_written_down() -> None:
    scores = {"camera": "pan_left", "motion": 9.0}
    assert caption.measured(CLIP, {**scores, "camera_confidence": 0.9}).camera == "pan left"
    assert caption.measured(CLIP, {**scores, "camera_confidence": 0.3}).camera is None
    assert caption.measured(CLIP, {"motion": 0.1}).camera == "static"


def test_variant_zero_is_everything_in_order_and_one_is_the_short_description() -> None:
    assert caption.render(FULL, 0) == (
        "A cat sleeps. A grey cat sleeps on a red sofa in the sun. Background: a living room. Style: home video. "
        "Shot type: close-up. Lighting: soft daylight. Atmosphere: calm. Camera: static. Tags: sidecar, high quality."
    )
    assert caption.render(FULL, 1) == "A cat sleeps."


def test_variants_are_made_of_whole_sentences_each_once() -> None:
    parts = list(caption.sentences(FULL).values())
    for variant in range(2, 60):
        rest = caption.render(FULL, variant)
        assert rest == caption.render(FULL, variant)
        for part in sorted(parts, key=len, reverse=True):
            assert rest.count(part) <= 1
            rest = rest.replace(part, "")
        assert not rest.strip()


def test_every_variant_says_what_is_seen() -> None:
    seen = [caption.sentences(FULL)[name] for name in ("short", "dense", "background")]
    assert all(any(part in caption.render(FULL, variant) for part in seen) for variant in range(200))


def test_every_field_is_dropped_and_moved_now_and_then() -> None:
    texts = [caption.render(FULL, variant) for variant in range(2, 202)]
    for part in caption.sentences(FULL).values():
        share = sum(part in text for text in texts) / len(texts)
        assert 0.45 < share < 0.75
    assert len(set(texts)) > 150
    assert sum(text.startswith("Camera: static.") for text in texts) > 5


def test_a_caption_of_one_field_is_never_empty() -> None:
    assert set(caption.renderings(Caption(short="a dog"), 20)) == {"a dog."}


def test_captions_are_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        Caption(short="a", sharpnes="b")  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        FULL.short = "b"
    with pytest.raises(ValueError, match="variant must be"):
        caption.render(FULL, -1)


def test_where_sidecars_lie() -> None:
    assert caption.sidecar_paths("/a/b.c/x y.mp4") == [
        "/a/b.c/x y.mp4.json", "/a/b.c/x y.json", "/a/b.c/x y.mp4.txt", "/a/b.c/x y.txt"]  # fmt: skip
    assert caption.sidecar_paths("s3://b/x.png")[1] == "s3://b/x.json"


def test_a_plain_picture_has_the_name_of_its_colour() -> None:
    for name, tones in colours.NAMES.items():
        for tone in tones:
            assert colours.named([np.full((20, 30, 3), tone, np.uint8)]) == [name]


def test_colours_are_named_by_their_share_whatever_their_place_and_size() -> None:
    stripes = np.repeat([[200, 30, 40]] * 5 + [[20, 30, 84]] * 4 + [[255, 255, 255]] * 1, 48, axis=0)
    picture = np.broadcast_to(stripes[:, None], (480, 480, 3)).astype(np.uint8)
    assert colours.named([picture]) == ["red", "navy"]  # a tenth of white is not named
    assert colours.named([np.rot90(picture).copy()]) == colours.named([picture[::-4, ::4].copy()]) == ["red", "navy"]
    white = np.full_like(picture, 255)
    assert colours.named([picture, white]) == ["white", "red", "navy"]


def test_at_most_three_colours_are_named() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:20, 20:], picture[20:, :20], picture[20:, 20:] = (200, 30, 40), (245, 210, 50), (40, 85, 200)
    assert len(colours.named([picture])) == colours.MOST == 3
