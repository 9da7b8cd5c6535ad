"""Text encoders from transformers folders: decoders (Llama, LLaVA's language model), T5 / UMT5 encoders, CLIP's pooled
vector.

A decoder's states are taken some layers before the end, where they serve generation better than the last ones, which
are made to predict the next token (HunyuanVideo, arXiv 2412.03603, 4.3.2). The tokens of the template before the
caption are cropped: they are the same for every caption, and the caption's tokens have read them.
"""

from __future__ import annotations

import copy
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from compat import mend_torchvision
from model.text import TextSpec, TextStates
from model.weights import MissingWeights, find_weights, read_config, weights_digest

ENCODERS = {"t5", "umt5", "mt5"}
CLIP = {"clip", "clip_text_model"}
GPU_BATCH = 16
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "spiece.model",
                    "tokenizer.model", "special_tokens_map.json")  # fmt: skip


class TransformersText:
    """states (L, D) float32 of valid tokens, pooled (P,): CLIP's at the last valid token, or the mean of the states."""

    def __init__(self, spec: TextSpec, device: torch.device | str = "cpu"):
        self.spec, self.device = spec, torch.device(device)
        self._settings = settings(spec)
        self.width, self.pooled_width = int(self._settings["width"]), int(self._settings["pooled_width"])
        folder = _folder(spec.text)  # a tokenizer of its own: they note how they pad, and do not bear two threads
        self._tokenizer, self._network = copy.deepcopy(tokenizer_of(folder)), self._loaded(folder)
        self._decoder = self._settings["class"] not in ENCODERS
        if spec.pooled is not None:
            self._pooler = self._loaded(_pooled_folder(spec.pooled))
            self._pooler_tokenizer = copy.deepcopy(tokenizer_of(_pooled_folder(spec.pooled)))

    def settings(self) -> dict[str, Any]:
        return self._settings

    @torch.no_grad()
    def encode(self, texts: list[str], image: bool = False) -> list[TextStates]:
        """On a CPU one text at a time, so that a text's states don't depend on its neighbours' lengths."""
        size = 1 if self.device.type == "cpu" else GPU_BATCH
        batches = [texts[start : start + size] for start in range(0, len(texts), size)]
        return [one for batch in batches for one in self._batch(batch, image)]

    def _batch(self, texts: list[str], image: bool) -> list[TextStates]:
        template = (self.spec.image_template if image else None) or self.spec.template or "{}"
        crop = crop_start(self._tokenizer, template)
        tokens = self._tokens(
            self._tokenizer, [template.replace("{}", text) for text in texts], crop + self.spec.length
        )
        if self._decoder:
            states = self._network(**tokens, output_hidden_states=True, use_cache=False).hidden_states[-self.spec.layer]
        else:
            states = self._network(**tokens).last_hidden_state
        lengths = tokens["attention_mask"].sum(1).tolist()
        found = [one[crop : max(crop + 1, length)].float().cpu() for one, length in zip(states, lengths)]
        pooled = [one.mean(0) for one in found] if self.spec.pooled is None else self._pooled(texts)
        return [TextStates(one, vector) for one, vector in zip(found, pooled, strict=True)]

    def _pooled(self, texts: list[str]) -> list[torch.Tensor]:
        tokens = self._tokens(self._pooler_tokenizer, texts, 77)
        return list(self._pooler(**tokens).pooler_output.float().cpu())

    def _tokens(self, tokenizer: Any, texts: list[str], length: int) -> dict[str, torch.Tensor]:
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        found = tokenizer(texts, padding=len(texts) > 1, padding_side="right", truncation=True, max_length=length,
                          return_tensors="pt", return_attention_mask=True)  # fmt: skip
        return {name: found[name].to(self.device) for name in ("input_ids", "attention_mask")}

    def _loaded(self, folder: Path) -> Any:
        network = _class(folder).from_pretrained(
            folder, dtype=getattr(torch, self.spec.precision), use_safetensors=True
        )
        return _language_part(network).requires_grad_(False).eval().to(self.device)


def settings(spec: TextSpec) -> dict[str, Any]:
    folder = _folder(spec.text)
    config = read_config(folder)
    found = {
        "class": config["model_type"],
        "weights": weights_digest(folder),
        "tokenizer": _tokenizer_digest(folder),
        "length": spec.length,
        "template": spec.template,
        "image_template": spec.image_template,
        "precision": spec.precision,
        "width": _width(config),
        "pooled_width": _width(config),
    }
    if config["model_type"] not in ENCODERS:
        found["layer"] = spec.layer
    if spec.pooled is not None:
        clip = _pooled_folder(spec.pooled)
        found["pooled"] = {"weights": weights_digest(clip), "tokenizer": _tokenizer_digest(clip)}
        found["pooled_width"] = _width(read_config(clip))
    return found


def crop_start(tokenizer: Any, template: str) -> int:
    """How many tokens of the template come before the caption: 95 for HunyuanVideo's video template, 36 for images."""
    before = template.partition("{}")[0]
    if not before:
        return 0
    alone = tokenizer(before)["input_ids"]
    within = tokenizer(template.replace("{}", "a"))["input_ids"]
    return next(
        (at for at, (one, other) in enumerate(zip(alone, within)) if one != other), min(len(alone), len(within))
    )


def _folder(spec: str) -> Path:
    return find_weights(spec, "cache.text", "text_encoder")


def _pooled_folder(spec: str) -> Path:
    folder = find_weights(spec, "cache.text_pooled", "text_encoder_2", "text_encoder")
    if (kind := read_config(folder).get("model_type")) not in CLIP:
        raise ValueError(f"cache.text_pooled: must be a CLIP text model, got {kind}")
    return folder


def _width(config: dict[str, Any]) -> int:
    """Of the text part: composite models keep its configuration under text_config."""
    inner = config.get("text_config") or config
    return int(inner.get("hidden_size") or inner["d_model"])


def _class(folder: Path) -> Any:
    mend_torchvision()
    import transformers

    kind = read_config(folder).get("model_type")
    if kind in CLIP:
        return transformers.CLIPTextModel
    return transformers.AutoModelForTextEncoding if kind in ENCODERS else transformers.AutoModel


def _language_part(network: Any) -> Any:
    """The language model inside a composite one (LLaVA), else the network itself."""
    return getattr(network, "language_model", network)


def _tokenizer_folder(folder: Path) -> Path:
    """Beside the weights, or in a pipeline's tokenizer folder (tokenizer_2 beside text_encoder_2)."""
    sibling = folder.parent / folder.name.replace("text_encoder", "tokenizer")
    for place in (folder, sibling):
        if any((place / name).is_file() for name in _TOKENIZER_FILES[:4]):
            return place
    raise MissingWeights(f"{folder}: no tokenizer beside the weights (tokenizer.json), nor in {sibling}")


@lru_cache(maxsize=4)
def tokenizer_of(folder: Path) -> Any:
    mend_torchvision()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(_tokenizer_folder(folder))


def _tokenizer_digest(folder: Path) -> str:
    place = _tokenizer_folder(folder)
    parts = [(place / name).read_bytes() for name in _TOKENIZER_FILES if (place / name).is_file()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
