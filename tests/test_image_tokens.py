"""A tiny LLaVA with random weights: its states at a picture's tokens, in the cache and out of it."""

from pathlib import Path
from typing import Any

import cache_workspace as ws
import numpy as np
import pytest
import torch
from llava_weights import PROMPT, WORDS, write_llava

from cache.black import read_black
from cache.buckets import Bucket
from cache.fingerprint import latent_settings
from cache.pixels import Crop, read_pixels
from cache.read import open_cache
from cache.update import Options, update
from compat import mend_torchvision
from model.conditioning import put_image_first
from model.image_tokens import ImageSpec, ImageTokens, settings
from model.weights import MissingWeights
from pipelines import fingerprint

mend_torchvision()
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llava(tmp_path_factory.mktemp("llava"))


def picture(seed: int, height: int = 48, width: int = 80) -> np.ndarray:
    return ws.drawn(seed, 1, height, width)[0]


def theirs(folder: Path, rgb: np.ndarray, caption: str) -> torch.Tensor:
    """States at the picture's tokens in the whole sequence, as transformers makes them."""
    network = transformers.LlavaForConditionalGeneration.from_pretrained(folder)
    plain = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    seen = plain.from_pretrained(folder)([rgb], return_tensors="pt", input_data_format="channels_last")
    ids = [WORDS.index(word) for word in f"<s> system look at {'<image> ' * 16}{caption}".split()]
    with torch.no_grad():
        out = network(input_ids=torch.tensor([ids]), output_hidden_states=True, **seen)
    return out.hidden_states[-3][0, 4:20]


def test_tokens_are_those_of_the_network_whatever_the_caption(llava: Path) -> None:
    seer, rgb = ImageTokens(ImageSpec(str(llava), stride=1, prompt=PROMPT)), picture(0)
    (found,) = seer.encode(rgb[None])
    assert found.shape == (16, 24)
    for caption in ("a red ball", ""):
        assert torch.allclose(found, theirs(llava, rgb, caption), atol=1e-5)
    assert not torch.allclose(found, seer.encode(picture(1)[None])[0], atol=1e-4)


def test_a_stride_keeps_every_so_many_and_neighbours_change_nothing(llava: Path) -> None:
    spec = ImageSpec(str(llava), stride=1, prompt=PROMPT)
    whole, every = ImageTokens(spec), ImageTokens(spec._replace(stride=4))
    both = np.stack([picture(0), picture(1)])
    assert torch.equal(every.encode(both), whole.encode(both)[:, ::4])
    assert torch.equal(whole.encode(both)[1], whole.encode(both[1:])[0])


def test_settings_name_what_changes_the_tokens_without_loading(llava: Path) -> None:
    spec = ImageSpec(str(llava), prompt=PROMPT)
    assert ImageTokens(spec).settings() == settings(spec)
    others = [spec._replace(layer=1), spec._replace(stride=1), spec._replace(prompt="<s> <image>"),
              spec._replace(precision="bfloat16")]  # fmt: skip
    assert all(settings(other) != settings(spec) for other in others)
    assert settings(spec)["tokens"] == 16


def test_wrong_folders_and_prompts_are_clear(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=r"cache\.image_tokens\.model .*no such folder"):
        settings(ImageSpec(str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="must end with <image>"):
        settings(ImageSpec(str(llava), prompt="<image> and more"))


def test_in_the_cache_beside_the_latents_and_in_its_fingerprint(llava: Path, tmp_path: Path) -> None:
    files = ws.footage(tmp_path, videos=2, images=1)
    more: dict[str, Any] = ws.DEFAULTS["cache"] | {
        "conditions": ["image_tokens"], "dtype": "float32", "image_tokens": {"model": str(llava), "prompt": PROMPT},
    }  # fmt: skip
    chosen = ws.fill(ws.recipe(tmp_path, cache=more), files)
    other = ws.recipe(tmp_path, cache=more | {"image_tokens": {"model": str(llava), "prompt": PROMPT, "stride": 4}})
    assert fingerprint(latent_settings(chosen)) != fingerprint(latent_settings(other))
    folder = update(chosen, Options(workers=0, device="cpu"), lambda line: None).folder
    cache = open_cache(chosen)
    seer = ImageTokens(ImageSpec(str(llava), prompt=PROMPT))
    for bucket in cache.buckets:
        for sample in cache.read(bucket, range(len(cache.index(bucket)))):
            if Bucket.parse(bucket).frames == 1:
                assert sample.conditions == {}
                continue
            path = next(row["path"] for row in files if row["clip_id"] == sample.clip_id)
            first = read_pixels(path, 0.0, Crop(), Bucket.parse(bucket))[:1]
            assert torch.equal(sample.conditions["image_tokens"], seer.encode(first)[0])
    black = read_black(folder)
    assert torch.equal(black, seer.encode(np.zeros((1, 48, 80, 3), np.uint8))[0])
    joined, mask = put_image_first(black[None], torch.zeros(1, 3, 24), torch.ones(1, 3, dtype=torch.bool))
    assert joined.shape == (1, 8 + 3, 24) and mask is not None and mask.shape == (1, 11)
