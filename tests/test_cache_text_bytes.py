"""What text states cost on disk: no padding, equal captions of a clip once, headers that are small beside the states."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from cache import index as tables
from cache.encode_text import TextWriter
from model.bytes_text import BytesText
from model.text import TextEncoder, TextStates
from pipelines import fingerprint

BUCKET = "1x64x64"
SHORT = [  # as `curate` renders measured captions: four variants, some of them equal
    ["Pink trees; the camera moves around them.", "Pink trees; the camera moves around them.", "Pink trees.", "Pink trees."],
    ["Red triangles; the pictures fade to black and back."] * 4,
    ["A book is opened on a desk, seen from above.", "A book.", "A book is opened on a desk, seen from above.", "A desk."],
]  # fmt: skip


class Wide:
    """States of a large language model's width and of a caption's usual length."""

    width, pooled_width = 4096, 768

    def encode(self, texts: list[str], image: bool = False) -> list[TextStates]:
        return [
            TextStates(torch.zeros(20 + len(text) % 40, self.width), torch.zeros(self.pooled_width)) for text in texts
        ]

    def settings(self) -> dict[str, Any]:
        return {"class": "wide", "width": self.width, "pooled_width": self.pooled_width}


def stored(folder: Path, encoder: TextEncoder, captions: dict[str, list[str]]) -> int:
    """Bytes of the text tars of these clips, written as one shard."""
    settings = {"encoder": encoder.settings(), "dtype": "bfloat16"}
    rows = [
        {"clip_id": key, "key": key, "start_tick": 0, "shard": 0, "offset": 0, "bytes": 0, "xxh3": 0}
        for key in captions
    ]
    writer = TextWriter(str(folder), settings, lambda: encoder, captions, lambda line: None)
    writer.update(BUCKET, pa.Table.from_pylist(rows, schema=tables.INDEX))
    index = tables.read_table(tables.text_index_path(str(folder), BUCKET, fingerprint(settings)), tables.TEXT_INDEX)
    assert index["key"].to_pylist() == list(captions)
    return sum(path.stat().st_size for path in folder.rglob("*.tar"))


def valid_bytes(encoder: TextEncoder, captions: dict[str, list[str]]) -> int:
    """Of the valid tokens of every variant of every clip, and nothing else."""
    return sum(one.states.numel() * 2 for texts in captions.values() for one in encoder.encode(texts))


@pytest.mark.parametrize("encoder", [BytesText(), Wide()])
def test_text_takes_no_more_than_its_valid_tokens(tmp_path: Path, encoder: TextEncoder) -> None:
    captions = {f"{i:016x}": SHORT[i % len(SHORT)] for i in range(12)}
    assert stored(tmp_path, encoder, captions) <= 1.05 * valid_bytes(encoder, captions)


def test_different_variants_of_a_wide_encoder_cost_their_tokens_alone(tmp_path: Path) -> None:
    captions = {f"{i:016x}": [f"{i} {'word ' * (9 * k + i)}" for k in range(4)] for i in range(6)}
    assert stored(tmp_path, Wide(), captions) <= 1.05 * valid_bytes(Wide(), captions)
