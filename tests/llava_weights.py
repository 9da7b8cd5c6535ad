"""A tiny LLaVA with random weights, in a folder as published ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = ["<s>", "</s>", "<pad>", "<unk>", "<image>", "system", "look", "at", "a", "red", "ball"]
PROMPT = "<s> system look at <image>"
TOKENS = 16  # of a picture: 56 px in patches of 14, where the published one has 336 px and 576


def write_llava(folder: Path, width: int = 24) -> Path:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=56, patch_size=14
    )
    text = transformers.LlamaConfig(
        vocab_size=32, hidden_size=width, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=4)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>").save_pretrained(
        folder
    )
    size: dict[str, Any] = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    transformers.CLIPImageProcessor(**size).save_pretrained(folder)
    return folder
