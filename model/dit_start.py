"""Start weights of the transformer: drawn one tensor at a time, and a start from which a short training gets further.

`each_start` gives what the constructor draws, for a network that no process holds whole.

`hand_on`: the network hands on what it is given.

Where t is near 1 the velocity, noise - data, is nearly the network's input, and a network whose output begins at zero
spends its first hundreds of steps on learning to copy. Here patches go in and come out by the same orthonormal
columns; the blocks between begin as the identity, as they always do. All that is lost is each patch's size, to the last
layer's norm.

Letters: D width, P numbers of a patch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.dit import DiT, own_starts

Put = Callable[[str, Tensor], None]


def each_start(model: DiT, seed: int, put: Put) -> None:
    """The parameters that DiT(...) has after torch.manual_seed(seed), to the bit, handed to `put` one by one.

    model: made on the meta device, only its shapes count. Some are put twice, and the last time counts, as layers draw
    their own start before the network draws its. Layers are drawn in the order of their names' appearance, which is the
    constructor's.
    """
    shapes = dict(model.named_parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in model.named_modules():
            if list(module.parameters(recurse=False)):
                for part, one in _drawn(module).named_parameters():
                    put(f"{name}.{part}", one.detach())
        for name, start in own_starts(model):
            one = torch.empty_like(shapes[name], device="cpu", requires_grad=False)
            start(one)
            put(name, one)


def _drawn(layer: nn.Module) -> nn.Module:
    made = copy.deepcopy(layer).to_empty(device="cpu")
    made.reset_parameters()  # type: ignore[operator]
    return made


@torch.no_grad()
def hand_on(model: DiT, seed: int) -> None:
    """A new network whose velocity is then the video divided by the root mean square of each patch.

    Further input channels (of image to video) have no part in it. Raises ValueError for a width that holds no patch.
    """
    parameters = dict(model.named_parameters())
    for name, one in handing_on(model, seed).items():
        parameters[name].copy_(one)


def handing_on(model: DiT, seed: int) -> dict[str, Tensor]:
    """The two weights by which it does; of the model only shapes are looked at."""
    patch_in, out = model.img_in.proj.weight, model.final_layer.linear.weight
    width, numbers = out.shape[1], out.shape[0]
    if width <= numbers:
        raise ValueError(f"the width must be greater than a patch of {numbers} numbers to hand it on, got {width}")
    drawn = torch.randn(width, numbers, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis_DP = torch.linalg.qr(drawn - drawn.mean(dim=0)).Q  # orthogonal to what the norm takes away, the mean
    into = torch.zeros(patch_in.shape, dtype=patch_in.dtype)
    own = into[:, : model.out_channels]
    own.copy_(basis_DP.reshape(own.shape))
    return {
        "img_in.proj.weight": into,
        "final_layer.linear.weight": (basis_DP.T * (numbers / width) ** 0.5).to(out.dtype),
    }
