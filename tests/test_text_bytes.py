"""The built-in text states: determinism, what they tell apart, lengths, and a golden value."""

import hashlib

import torch

from model.bytes_text import POOLED_WIDTH, WIDTH, BytesText, words
from model.text import TextSpec, encoder_settings, load_text


def test_shapes_and_scale() -> None:
    states, pooled = BytesText().encode(["A red ball rolls to the left, slowly."])[0]
    assert states.shape == (10, WIDTH) and pooled.shape == (POOLED_WIDTH,)
    assert 0.7 < float(states.var()) < 1.3 and 0.6 < float(pooled.var()) < 1.5


def test_equal_texts_have_equal_states_alone_or_in_company() -> None:
    text = "two boats at dusk"
    alone = BytesText().encode([text])[0]
    among = BytesText().encode(["something else", text])[1]
    assert torch.equal(alone.states, among.states) and torch.equal(alone.pooled, among.pooled)


def test_words_decide_and_order_matters() -> None:
    left, right, swapped = (one.pooled for one in BytesText().encode(["a red ball", "a blue box", "ball red a"]))
    similar = torch.cosine_similarity
    assert similar(left, swapped, 0) > 0.4 > similar(left, right, 0)
    assert not torch.equal(left, swapped)


def test_words_with_common_bytes_are_alike() -> None:
    """Triples make `rolling` and `rolled` closer than words without any in common."""
    rolling, rolled, sky = (one.states[0, 64:112] for one in BytesText().encode(["rolling", "rolled", "skyscraper"]))
    similar = torch.cosine_similarity
    assert similar(rolling, rolled, 0) > similar(rolling, sky, 0) + 0.2


def test_the_same_word_elsewhere_differs_only_in_its_place() -> None:
    states = BytesText().encode(["sea sea"])[0].states
    assert torch.equal(states[0, :112], states[1, :112])
    assert not torch.equal(states[0, 112:], states[1, 112:])


def test_length_cuts_and_empty_text_has_one_state() -> None:
    assert BytesText(3).encode(["one two three four"])[0].states.shape == (3, WIDTH)
    assert BytesText().encode([""])[0].states.shape == (1, WIDTH)


def test_any_language_is_read() -> None:
    assert words("Ein Ölgemälde, 海") == ["ein", "ölgemälde", ",", "海"]
    first, second = BytesText().encode(["海", "山"])
    assert not torch.equal(first.states, second.states)


def test_settings_are_told_without_loading() -> None:
    seven, eight = TextSpec("bytes", length=7), TextSpec("bytes", length=8)
    assert load_text("bytes", length=7).settings() == encoder_settings(seven) != encoder_settings(eight)


def test_golden() -> None:
    """A change of it is a change of every cached text state: raise bytes_text.VERSION."""
    states, pooled = BytesText().encode(["A dog, running."])[0]
    assert hashlib.sha256(states[:, :64].to(torch.int8).numpy().tobytes()).hexdigest()[:16] == "f7ef1053d85f3453"
    assert torch.allclose(pooled[:5], torch.tensor([0.4472, -0.4472, -0.4472, -0.4472, -0.4472]), atol=1e-3)
