"""transformers folders with random weights: states against the networks' own, crops, templates, CLIP's pooled vector."""

from pathlib import Path
from typing import Any

import pytest
import torch

import pipelines
from compat import mend_torchvision
from model.text import Several, TextSpec, encoder_settings, load_spec
from model.weights import MissingWeights

mend_torchvision()
transformers = pytest.importorskip("transformers")

CAPTIONS = "a red ball rolls over green grass describe the video by naming what moves image : ,"
WORDS = [*CAPTIONS.split(), "<s>", "</s>", "<pad>", "<unk>"]
TEMPLATE = "<s> describe the video : {} </s>"


def tokenizer(folder: Path) -> Any:
    """One token per word, made here: nothing is downloaded."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(WORDS))}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="</s>", bos_token="<s>"
    )
    fast.save_pretrained(folder)
    return fast


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2
    )
    folder = tmp_path_factory.mktemp("llama")
    transformers.LlamaModel(config).save_pretrained(folder)
    tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    config = transformers.T5Config(vocab_size=32, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    folder = tmp_path_factory.mktemp("t5")
    transformers.T5EncoderModel(config).save_pretrained(folder)
    tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    names = list(dict.fromkeys(WORDS))
    config = transformers.CLIPTextConfig(
        vocab_size=32, hidden_size=12, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        eos_token_id=names.index("</s>"), bos_token_id=names.index("<s>"), pad_token_id=names.index("<pad>"),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("clip")
    transformers.CLIPTextModel(config).save_pretrained(folder)
    tokenizer(folder)
    return folder


def test_decoder_states_are_those_of_the_network_without_the_template(llama: Path) -> None:
    encoder = load_spec(TextSpec(str(llama), template=TEMPLATE, layer=3))
    (states, pooled) = encoder.encode(["red ball"])[0]
    network = transformers.LlamaModel.from_pretrained(llama)
    names = list(dict.fromkeys(WORDS))
    ids = torch.tensor([[names.index(word) for word in TEMPLATE.replace("{}", "red ball").split()]])
    with torch.no_grad():
        hidden = network(input_ids=ids, output_hidden_states=True).hidden_states
    assert torch.allclose(states, hidden[-3][0, 5:], atol=1e-5)  # five tokens come before the caption
    assert states.shape == (3, 16) and torch.allclose(pooled, states.mean(0))


def test_the_template_is_read_by_the_captions_tokens(llama: Path) -> None:
    plain = load_spec(TextSpec(str(llama))).encode(["red ball"])[0].states
    framed = load_spec(TextSpec(str(llama), template=TEMPLATE)).encode(["red ball"])[0].states
    assert plain.shape == (2, 16)
    assert not torch.allclose(plain, framed[:2], atol=1e-3)


def test_images_have_a_template_of_their_own(llama: Path) -> None:
    encoder = load_spec(TextSpec(str(llama), template=TEMPLATE, image_template="<s> describe image : {}"))
    clip_states, image_states = (encoder.encode(["red ball"], image)[0].states for image in (False, True))
    assert (len(clip_states), len(image_states)) == (3, 2)


def test_length_cuts_the_caption_not_the_template(llama: Path) -> None:
    encoder = load_spec(TextSpec(str(llama), template=TEMPLATE, length=2))
    assert encoder.encode(["a red ball rolls over green grass"])[0].states.shape == (2, 16)


def test_t5_states_are_those_of_its_encoder(t5: Path) -> None:
    (states, _) = load_spec(TextSpec(str(t5))).encode(["red ball rolls"])[0]
    network = transformers.T5EncoderModel.from_pretrained(t5)
    names = list(dict.fromkeys(WORDS))
    with torch.no_grad():
        expected = network(
            input_ids=torch.tensor([[names.index(w) for w in ("red", "ball", "rolls")]])
        ).last_hidden_state
    assert torch.allclose(states, expected[0], atol=1e-5)


def test_pooled_is_clips_at_the_end_of_the_text(llama: Path, clip: Path) -> None:
    encoder = load_spec(TextSpec(str(llama), pooled=str(clip)))
    pooled = encoder.encode(["red ball </s>"])[0].pooled
    network = transformers.CLIPTextModel.from_pretrained(clip)
    names = list(dict.fromkeys(WORDS))
    with torch.no_grad():
        hidden = network(input_ids=torch.tensor([[names.index(w) for w in ("red", "ball", "</s>")]])).last_hidden_state
    assert torch.allclose(pooled, hidden[0, -1], atol=1e-5)
    assert (encoder.width, encoder.pooled_width) == (16, 12)


def test_neighbours_change_nothing(llama: Path) -> None:
    encoder = load_spec(TextSpec(str(llama), template=TEMPLATE))
    alone = encoder.encode(["red"])[0].states
    assert torch.equal(encoder.encode(["a red ball rolls", "red"])[1].states, alone)


def test_several_encoders_share_out_the_texts(llama: Path, clip: Path) -> None:
    spec = TextSpec(str(llama), str(clip), template=TEMPLATE)
    one, several = load_spec(spec), Several([load_spec(spec) for _ in range(3)])
    assert several.settings() == one.settings() and (several.width, several.pooled_width) == (
        one.width,
        one.pooled_width,
    )
    for count in (0, 1, 2, 3, 7, 40):
        texts = [" ".join(CAPTIONS.split()[k % 11 : k % 11 + 1 + k % 5]) for k in range(count)]
        wanted, found = one.encode(texts), several.encode(texts)
        assert len(found) == count
        assert all(torch.equal(a, b) for pair in zip(found, wanted, strict=True) for a, b in zip(*pair))


def test_settings_without_loading_name_what_changes_states(llama: Path, t5: Path, clip: Path) -> None:
    spec = TextSpec(str(llama), template=TEMPLATE)
    assert load_spec(spec).settings() == encoder_settings(spec)
    others = [spec._replace(text=str(t5)), spec._replace(pooled=str(clip)), spec._replace(layer=1), spec._replace(length=9),
              spec._replace(template=None), spec._replace(image_template="{}")]  # fmt: skip
    assert all(encoder_settings(other) != encoder_settings(spec) for other in others)


def test_missing_weights_and_wrong_kinds_are_clear(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=r"cache\.text .*no such folder"):
        encoder_settings(TextSpec(str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="must be a CLIP text model, got llama"):
        encoder_settings(TextSpec(str(llama), pooled=str(llama)))


def test_the_hunyuan_recipe_reads_captions_as_the_published_pipeline_does() -> None:
    """Its transformer knows the states of a LLaVA behind these words, at this layer, of so many tokens."""
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

    cache = pipelines.load(recipe="hunyuan").cache
    assert cache.template == DEFAULT_PROMPT_TEMPLATE["template"]
    assert (cache.text_layer, cache.text_length, cache.precision) == (3, 256, "float16")  # hidden_states[-(2 + 1)]
    words = ("<|start_header_id|>system<|end_header_id|>\n\nDescribe the image by detailing the color, shape, size, texture, "
             "quantity, text, spatial relationships of the objects and background:<|eot_id|>"
             "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>")  # fmt: skip
    assert cache.image_template == words
