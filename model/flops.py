"""What the transformer costs: floating-point operations and parameters (memory: train/memory.py).

Operations are counted as they are: a multiply-add is two, attention is included (at 118,800 tokens it is 87 % of the
forward pass, so a 6 N D estimate would be fiction). Sizes are those of model/sizes.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Size = dict[str, Any]


class Flops(NamedTuple):
    """Operations of one forward pass, by what does them."""

    linear: float  # the blocks' matrices, on video and text tokens
    attention: float  # scores and weighted sums of the blocks
    text: float  # the token refiner
    modulation: float
    ends: float  # patches in, patches out, time and pooled text

    @property
    def blocks(self) -> float:
        """Matrices and attention of the blocks alone: what published tables count."""
        return self.linear + self.attention

    @property
    def total(self) -> float:
        return sum(self)


def forward_flops(size: Size, video: int, text: int, batch: int = 1, frames: int = 1) -> Flops:
    """Operations for `batch` samples of `video` and `text` tokens; frames: times per sample (1, or one a frame)."""
    d, mlp = size["width"], int(size["width"] * size["mlp_ratio"])
    doubles, singles, refiners = size["double_blocks"], size["single_blocks"], size["refiner_blocks"]
    tokens, patch = video + text, size["patch"][0] * size["patch"][1] * size["patch"][2]
    per_token = (doubles + singles) * (4 * d * d + 2 * d * mlp)
    refiner = text * (size["text_width"] * d + refiners * 12 * d * d + refiners * 2 * text * d) + refiners * 2 * d * d
    embedders = 2 * (256 * d + d * d) + 2 * d * d + (size["pooled_width"] + size["text_width"]) * d
    alone = (
        frames + 1 if frames > 1 else 1
    )  # one modulation serves both streams of a single block, if they share a time
    modulation = d * d * (6 * doubles * (frames + 1) + 3 * singles * alone + 2)
    ends = video * patch * d * (size["in_channels"] + size["out_channels"]) + embedders
    macs = (tokens * per_token, 2 * tokens**2 * d * (doubles + singles), refiner, modulation, ends)
    return Flops(*(2.0 * batch * count for count in macs))


def training_flops(size: Size, video: int, text: int, batch: int = 1, frames: int = 1) -> float:
    """Operations of forward and backward, the latter twice the former; what checkpointing repeats is no useful work."""
    return 3 * forward_flops(size, video, text, batch, frames).total


def recomputed_flops(size: Size, video: int, text: int, checkpointing: str, batch: int = 1) -> float:
    """Operations that checkpointing repeats: all of the blocks' (full), those but the attention (selective), none."""
    forward = forward_flops(size, video, text, batch)
    return {"none": 0.0, "selective": forward.linear, "full": forward.blocks}[checkpointing]


def parameters(size: Size) -> int:
    """How many weights a model of this size has, without making one."""
    d, mlp, patch = size["width"], int(size["width"] * size["mlp_ratio"]), size["patch"]
    volume, head = patch[0] * patch[1] * patch[2], d // size["heads"]

    def linear(inputs: int, outputs: int) -> int:
        return (inputs + 1) * outputs

    def embedder(inputs: int) -> int:
        return linear(inputs, d) + linear(d, d)

    attention, feed = linear(d, 3 * d) + linear(d, d), linear(d, mlp) + linear(mlp, d)
    double = 2 * (linear(d, 6 * d) + attention + feed + 2 * head)
    single = linear(d, 3 * d) + linear(d, 3 * d + mlp) + linear(d + mlp, d) + 2 * head
    refiner_block = 4 * d + attention + linear(d, 4 * d) + linear(4 * d, d) + linear(d, 2 * d)
    refiner = linear(size["text_width"], d) + embedder(256) + embedder(size["text_width"])
    ends = linear(volume * size["in_channels"], d) + linear(d, volume * size["out_channels"]) + linear(d, 2 * d)
    conditions = embedder(256) * (2 if size["guidance"] else 1) + embedder(size["pooled_width"])
    blocks = size["double_blocks"] * double + size["single_blocks"] * single + size["refiner_blocks"] * refiner_block
    return blocks + refiner + ends + conditions
