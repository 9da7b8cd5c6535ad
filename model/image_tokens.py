"""What a LLaVA sees: hidden states of its language model at a picture's tokens, for image to video with semantic injection.

The language model is causal: the states at the picture depend on the words before it and on the picture, not on the
caption. So a clip's tokens are made once, whatever its captions become. HunyuanVideo-I2V's words put the picture's 576
tokens at 5 to 581, and it takes every 4th of them (token replace) or every 2nd (latent concat).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from compat import mend_torchvision
from model.weights import MissingWeights, find_weights, read_config, weights_digest

PROMPT = "<|start_header_id|>system<|end_header_id|>\n\n<image>"  # of HunyuanVideo-I2V, up to the picture
_PROCESSOR = "preprocessor_config.json"


class ImageSpec(NamedTuple):
    """folder: path or hub name of a LlavaForConditionalGeneration; layer: hidden states, from the end (1 is the last);
    stride: every so many tokens are kept; prompt: the words up to `<image>`."""

    folder: str
    layer: int = 3
    stride: int = 2
    prompt: str = PROMPT
    precision: str = "float32"


class ImageTokens:
    """Raises MissingWeights; ValueError for a folder of another kind or a prompt without exactly one `<image>`."""

    def __init__(self, spec: ImageSpec, device: torch.device | str = "cpu"):
        mend_torchvision()
        import transformers

        self.spec, self.device, self._settings = spec, torch.device(device), settings(spec)
        folder = _folder(spec)
        dtype = getattr(torch, spec.precision)
        network = transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype, use_safetensors=True)
        inner: Any = network.model
        self._network: Any = inner.requires_grad_(False).eval().to(self.device)
        self._look = _processor(folder)
        before, self._count = _prompt_ids(folder, spec), int(self._settings["tokens"])
        self._start, picture = len(before), int(network.config.image_token_id)
        self._ids = torch.tensor([[*before, *[picture] * self._count]], device=self.device)

    def settings(self) -> dict[str, Any]:
        return self._settings

    @torch.no_grad()
    def encode(self, pictures: np.ndarray) -> torch.Tensor:
        """uint8 RGB (B, H, W, 3) -> float32 (B, ceil(tokens / stride), D), on the CPU.

        On a CPU one picture at a time, so that its bytes don't depend on its neighbours.
        """
        size = 1 if self.device.type == "cpu" else len(pictures)
        parts = [self._batch(pictures[start : start + size]) for start in range(0, len(pictures), size)]
        return torch.cat(parts)[:, :: self.spec.stride].contiguous()

    def _batch(self, pictures: np.ndarray) -> torch.Tensor:
        seen = self._look(list(pictures), return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        ids = self._ids.expand(len(pictures), -1)
        found = self._network(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=seen.to(self.device, self._network.dtype),
            output_hidden_states=True, use_cache=False,
        ).hidden_states[-self.spec.layer]  # fmt: skip
        return found[:, self._start : self._start + self._count].float().cpu()


def settings(spec: ImageSpec) -> dict[str, Any]:
    """Everything that changes these bytes, without loading the weights."""
    mend_torchvision()
    import transformers

    folder = _folder(spec)
    config = transformers.AutoConfig.from_pretrained(folder)
    return {
        "weights": weights_digest(folder),
        "prompt": spec.prompt,
        "prompt_ids": hashlib.sha256(repr(_prompt_ids(folder, spec)).encode()).hexdigest()[:16],
        "processor": hashlib.sha256((_processor_folder(folder) / _PROCESSOR).read_bytes()).hexdigest()[:16],
        "layer": spec.layer,
        "stride": spec.stride,
        "precision": spec.precision,
        "tokens": _tokens(config),
        "width": int(config.text_config.hidden_size),
    }


def _folder(spec: ImageSpec) -> Path:
    folder = find_weights(spec.folder, "cache.image_tokens.model", "text_encoder")
    if (kind := read_config(folder).get("model_type")) != "llava":
        raise ValueError(f"cache.image_tokens.model: must be a LLaVA folder, got one of {kind}")
    return folder


def _tokens(config: Any) -> int:
    """Of one picture: 576 for 336 px in patches of 14. `default` leaves the class token out, `full` keeps it."""
    across = config.vision_config.image_size // config.vision_config.patch_size
    return across * across + (config.vision_feature_select_strategy == "full")


def _prompt_ids(folder: Path, spec: ImageSpec) -> list[int]:
    """Tokens of the words before the picture: five for HunyuanVideo-I2V's."""
    from model.transformers_text import tokenizer_of

    before, mark, after = spec.prompt.partition("<image>")
    if not mark or after:
        raise ValueError(f"cache.image_tokens.prompt: must end with <image>, got {spec.prompt!r}")
    return list(tokenizer_of(folder)(before)["input_ids"])


def _processor_folder(folder: Path) -> Path:
    """Beside the weights, or in a pipeline's image_processor folder."""
    for place in (folder, folder.parent / "image_processor"):
        if (place / _PROCESSOR).is_file():
            return place
    raise MissingWeights(f"{folder}: no {_PROCESSOR} beside the weights, nor in {folder.parent / 'image_processor'}")


def _processor(folder: Path) -> Any:
    """On PIL: its resampling is the one that the weights were trained with, and the same on every machine."""
    import transformers

    plain = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    return plain.from_pretrained(_processor_folder(folder))
