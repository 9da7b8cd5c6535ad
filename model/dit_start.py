"""A start of the transformer from which a short training gets further: it hands on what it is given.

Where t is near 1 the velocity, noise - data, is nearly the network's input, and a network whose output begins at zero
spends its first hundreds of steps on learning to copy. Here patches go in and come out by the same orthonormal
columns; the blocks between begin as the identity, as they always do. All that is lost is each patch's size, to the last
layer's norm.

Letters: D width, P numbers of a patch.
"""

from __future__ import annotations

import torch

from model.dit import DiT


@torch.no_grad()
def hand_on(model: DiT, seed: int) -> None:
    """A new network whose velocity is then the video divided by the root mean square of each patch.

    Further input channels (of image to video) have no part in it. Raises ValueError for a width that holds no patch.
    """
    patch_in, out = model.img_in.proj.weight, model.final_layer.linear.weight
    width, numbers = out.shape[1], out.shape[0]
    if width <= numbers:
        raise ValueError(f"the width must be greater than a patch of {numbers} numbers to hand it on, got {width}")
    drawn = torch.randn(width, numbers, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis_DP = torch.linalg.qr(drawn - drawn.mean(dim=0)).Q  # orthogonal to what the norm takes away, the mean
    own = patch_in[:, : model.out_channels]
    patch_in.zero_()
    own.copy_(basis_DP.reshape(own.shape))
    out.copy_(basis_DP.T * (numbers / width) ** 0.5)
