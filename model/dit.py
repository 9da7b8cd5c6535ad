"""HunyuanVideo's diffusion transformer (arXiv 2412.03603, section 4.3), exact.

The names of its modules are those of the released checkpoint, so official weights load as they are. The forward pass
is one straight line: an image-to-video variant differs in what is fed in (model/conditioning.py), not in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from model.attention import crop_text, key_mask
from model.blocks import DoubleBlock, FinalLayer, Modulation, SingleBlock
from model.embedders import PatchEmbed, RefinerBlock, TextRefiner, TimeEmbed, VectorEmbed, unpatch
from model.rope import rope_table

# Compiled forms of a block's one forward: of either kind, with and without gradients, mask, and times of single frames, for
# one sample and for several. 39 were seen over twenty kinds of batch; beyond PyTorch's limit, 8, it quietly compiles no more.
VARIANTS = 64
OFS = 2.0  # what CogVideoX1.5 feeds to its offset embedding, for every sample: so it is no argument


class DiT(nn.Module):
    """Arguments: see model/sizes.py. Raises ValueError where sizes do not fit together.

    checkpointing: see model/checkpointing.py.
    """

    def __init__(
        self, *, in_channels: int = 16, out_channels: int = 16, width: int, heads: int, double_blocks: int,
        single_blocks: int, refiner_blocks: int = 2, mlp_ratio: float = 4.0, rope_axes: tuple[int, int, int],
        rope_theta: float = 256.0, patch: tuple[int, int, int] = (1, 2, 2), text_width: int, pooled_width: int,
        guidance: bool = False, ofs: bool = False, checkpointing: str = "none",
    ) -> None:  # fmt: skip
        super().__init__()
        if width % heads or sum(rope_axes) != width // heads or any(axis % 2 for axis in rope_axes):
            raise ValueError(
                f"rope_axes must be even and add up to width / heads, got {rope_axes} for {width} / {heads}"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.patch, self.rope_axes, self.rope_theta = patch, rope_axes, rope_theta
        mlp_width = int(width * mlp_ratio)
        self.img_in = PatchEmbed(in_channels, width, self.patch)
        self.txt_in = TextRefiner(text_width, width, heads, refiner_blocks)
        self.time_in = TimeEmbed(width)
        self.vector_in = VectorEmbed(pooled_width, width)
        self.guidance_in = TimeEmbed(width) if guidance else None
        self.ofs_in = TimeEmbed(width) if ofs else None  # CogVideoX1.5 embeds the constant OFS beside the time
        self.double_blocks = nn.ModuleList(DoubleBlock(width, heads, mlp_width) for _ in range(double_blocks))
        self.single_blocks = nn.ModuleList(SingleBlock(width, heads, mlp_width) for _ in range(single_blocks))
        self.final_layer = FinalLayer(width, out_channels * patch[0] * patch[1] * patch[2])
        self.checkpoint_blocks(checkpointing)
        initialise(self)

    def forward(
        self, x: Tensor, t: Tensor, text: Tensor, text_mask: Tensor | None, pooled: Tensor,
        guidance: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Video x (B, C, T, H, W) -> velocity (B, C out, T, H, W), in the dtype of the weights.

        t: (B,) in [0, 1000], or (B, T) for times of the single frames; the text then stands at the latest of them.
        text (B, L, text width); text_mask (B, L) bool, True for the first tokens of each row, None when all count;
        pooled (B, pooled width); guidance (B,), 1000 x the scale, for models that embed it.
        Raises ValueError when x does not fit the patch, or guidance is given to (or kept from) the wrong model.
        """
        grid = self._grid(x)
        dtype = self.img_in.proj.weight.dtype
        text, text_mask = crop_text(text.to(dtype), text_mask)
        vec, img_vec = self._condition(t, pooled.to(dtype), guidance)
        img = self.img_in(x.to(dtype))
        txt = self.txt_in(text, _latest(t), text_mask)
        table = rope_table(grid, self.rope_axes, self.rope_theta, txt.shape[1], x.device)
        mask = key_mask(text_mask, img.shape[1])
        for block in self.double_blocks:
            img, txt = block(img, txt, img_vec, vec, table, mask)
        x, video = torch.cat((img, txt), dim=1), img.shape[1]
        for block in self.single_blocks:
            x = block(x, video, img_vec, vec, table, mask)
        return unpatch(self.final_layer(x[:, :video], vec), grid, self.patch)

    def blocks(self) -> list[Any]:
        """The large blocks, in order."""
        return [*self.double_blocks, *self.single_blocks]

    def checkpoint_blocks(self, mode: str) -> None:
        for block in self.blocks():
            block.checkpointing = mode

    def _grid(self, x: Tensor) -> tuple[int, int, int]:
        if any(side % step for side, step in zip(x.shape[2:], self.patch)):
            raise ValueError(f"frames, height and width must be multiples of the patch {self.patch}, got {x.shape[2:]}")
        frames, height, width = (side // step for side, step in zip(x.shape[2:], self.patch))
        return frames, height, width

    def _condition(self, t: Tensor, pooled: Tensor, guidance: Tensor | None) -> tuple[Tensor, Tensor]:
        """What modulates text and output (B, 1, D), and what modulates the video (B, 1 or frames, D).

        A frame that is given (its own t is 0) is modulated without guidance, as HunyuanVideo-I2V does.
        """
        if (self.guidance_in is None) != (guidance is None):
            raise ValueError("guidance must be given to a model that embeds it, and to no other")
        base = self.vector_in(pooled)[:, None]
        if self.ofs_in is not None:
            base = base + self.ofs_in(torch.full((len(t), 1), OFS, device=t.device))
        extra = torch.zeros_like(base) if guidance is None else self.guidance_in(guidance)[:, None]  # type: ignore[misc]
        vec = self.time_in(_latest(t))[:, None] + base + extra
        if t.ndim == 1:
            return vec, vec
        frame_t = t.unflatten(1, (-1, self.patch[0])).amax(dim=2)  # a token of several frames stands at the latest
        return vec, self.time_in(frame_t) + base + extra * (frame_t > 0)[..., None]


def _latest(t: Tensor) -> Tensor:
    return t if t.ndim == 1 else t.amax(dim=1)


def compile_blocks(model: DiT, **options: Any) -> None:
    """torch.compile the forward pass of each block, in place: 60 blocks cost two compilations, names stay as they are,
    and what hangs on a block (the gathering of spread weights) stays outside."""
    import torch._dynamo

    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, VARIANTS)
    for block in model.blocks():
        block.forward = torch.compile(block.forward, **options)


# ------------------------------------------------------------------------------------------------------ initial weights


def initialise(model: DiT) -> None:
    """The released model's start: modulations and output zero, time embeddings narrow, patches as a linear layer's."""
    parameters = dict(model.named_parameters())
    for name, start in own_starts(model):
        start(parameters[name])


def own_starts(model: nn.Module) -> Iterator[tuple[str, Callable[[Tensor], object]]]:
    """The parameters that do not begin as their layer has it, and how they begin, in the order in which they are drawn."""
    yield "img_in.proj.weight", lambda weight: nn.init.xavier_uniform_(weight.flatten(1))
    yield "img_in.proj.bias", nn.init.zeros_
    for name, module in model.named_modules():
        if isinstance(module, TimeEmbed):
            for layer in (0, 2):
                yield f"{name}.mlp.{layer}.weight", partial(nn.init.normal_, std=0.02)
        elif isinstance(module, Modulation):
            yield from _zero(f"{name}.linear")
        elif isinstance(module, (RefinerBlock, FinalLayer)):
            yield from _zero(f"{name}.adaLN_modulation.1")
    yield from _zero("final_layer.linear")


def _zero(layer: str) -> Iterator[tuple[str, Callable[[Tensor], object]]]:
    return ((f"{layer}.{part}", nn.init.zeros_) for part in ("weight", "bias"))
