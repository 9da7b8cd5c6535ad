"""Perceptual distances of pictures: LPIPS on weights given by path, or one without weights.

`load_perceptual(path)` gives a module: two batches of pictures (N, 3, H, W) in [-1, 1] -> distances (N,), 0 for
equal ones.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from model.similarity import halved, ssim

SCALES = 3  # full, half and quarter size
MIN_SIDE_PX = 16

# torchvision's `features` by index: ("conv", in, out, kernel, stride, padding), "relu", ("pool", kernel, stride).
_ALEX = [
    ("conv", 3, 64, 11, 4, 2), "relu", ("pool", 3, 2), ("conv", 64, 192, 5, 1, 2), "relu", ("pool", 3, 2),
    ("conv", 192, 384, 3, 1, 1), "relu", ("conv", 384, 256, 3, 1, 1), "relu", ("conv", 256, 256, 3, 1, 1), "relu",
]  # fmt: skip
_VGG_WIDTHS = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512)


def _vgg() -> list:
    layers: list = []
    before = 3
    for width in _VGG_WIDTHS:
        layers += [("pool", 2, 2)] if width is None else [("conv", before, width, 3, 1, 1), "relu"]
        before = width or before
    return layers


# Layers, and after which of them LPIPS looks (relu1..relu5; relu1_2, 2_2, 3_3, 4_3, 5_3).
BACKBONES = {"alex": (_ALEX, (1, 4, 7, 9, 11)), "vgg": (_vgg(), (3, 8, 15, 22, 29))}


class GradientSsim(nn.Module):
    """Without weights: mean absolute difference of gradients plus (1 - SSIM) / 2, averaged over three scales.

    It punishes blur and misplaced edges, which L1 alone takes for cheap, and knows nothing of what pictures mean.
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.float(), b.float()
        found = []
        for _ in range(SCALES):
            found.append(_gradient_difference(a, b) + (1.0 - ssim(a, b)) / 2)
            if min(a.shape[-2:]) < 2 * MIN_SIDE_PX:
                break
            a, b = halved(a), halved(b)
        return torch.stack(found).mean(dim=0)


class Lpips(nn.Module):
    """LPIPS v0.1 (arXiv 1801.03924): squared differences of channel-normalised features, weighted, averaged, summed."""

    def __init__(self, network: str):
        super().__init__()
        layers, self.looks = BACKBONES[network]
        self.features = nn.ModuleList(_layer(one) for one in layers)
        widths = [_width_after(layers, look) for look in self.looks]
        self.lins = nn.ParameterList(nn.Parameter(torch.zeros(1, width, 1, 1)) for width in widths)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        distance = torch.zeros(len(a), device=a.device)
        for weight, one, other in zip(self.lins, self._looks(a.float()), self._looks(b.float())):
            difference = (_unit(one) - _unit(other)) ** 2
            distance = distance + F.conv2d(difference, weight).mean(dim=(1, 2, 3))
        return distance

    def _looks(self, pictures: Tensor) -> list[Tensor]:
        hidden = (pictures - self.get_buffer("shift")) / self.get_buffer("scale")
        found = []
        for index, layer in enumerate(self.features):
            hidden = layer(hidden)
            if index in self.looks:
                found.append(hidden)
        return found


def load_perceptual(path: str | None, device: torch.device | str = "cpu") -> nn.Module:
    """The built-in distance for None, else LPIPS with the weights of a safetensors file, frozen.

    The file holds the lpips package's state (`net.slice1.0.weight`, `lin0.model.1.weight`), or torchvision's names
    (`features.0.weight`) beside the same `lin*`. Raises ValueError when it holds anything else.
    """
    if path is None:
        return GradientSsim().to(device)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no LPIPS weights there (a safetensors file of the lpips package's state)")
    held = {_our_name(name): tensor for name, tensor in load_file(path).items() if not _is_constant(name)}
    network = "vgg" if held.get("features.0.weight", torch.zeros(1)).shape[-1] == 3 else "alex"
    lpips = Lpips(network)
    wanted = {name for name, _ in lpips.named_parameters()}
    if set(held) != wanted:
        wrong = sorted(set(held) ^ wanted)[:3]
        raise ValueError(f"{path}: must be an LPIPS state on AlexNet or VGG16; missing or unknown: {', '.join(wrong)}")
    lpips.load_state_dict(held, strict=False)  # the names were compared above; shift and scale are constants
    return lpips.requires_grad_(False).eval().to(device)


def _our_name(name: str) -> str:
    """`net.slice2.3.weight` -> `features.3.weight`, `lin0.model.1.weight` -> `lins.0`."""
    parts = name.split(".")
    if parts[0] == "net":
        return ".".join(["features", *parts[2:]])
    if parts[0].startswith("lin") and parts[0] != "lins":
        return f"lins.{parts[0].removeprefix('lin')}"
    return name


def _is_constant(name: str) -> bool:
    """The scaling constants, and `lins.*`, which the package's state repeats under a second name."""
    return name.startswith(("scaling_layer.", "lins.", "classifier."))


def _gradient_difference(a: Tensor, b: Tensor) -> Tensor:
    difference = a - b
    across = difference.diff(dim=-1).abs().mean(dim=(1, 2, 3))
    return (across + difference.diff(dim=-2).abs().mean(dim=(1, 2, 3))) / 2


def _unit(features: Tensor) -> Tensor:
    # vector_norm has gradient 0 where all features are 0; the package's sqrt has NaN there.
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-10)


def _layer(what: str | tuple) -> nn.Module:
    if isinstance(what, str):
        return nn.ReLU()
    kind, *numbers = what
    return nn.MaxPool2d(*numbers) if kind == "pool" else nn.Conv2d(*numbers)


def _width_after(layers: list, look: int) -> int:
    return next(one[2] for one in reversed(layers[: look + 1]) if one[0] == "conv")
