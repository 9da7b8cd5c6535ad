"""Low-rank adaptation (arXiv 2106.09685): W x + (alpha / rank) B A x, with W frozen; and its published key styles.

A layer keeps the names of its own weights, so a model with adapters still loads the released checkpoint.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.convert import FUSED, RENAMED, SWAPPED

State = dict[str, Tensor]


class LoraLinear(nn.Linear):
    """A frozen linear layer and its trained low-rank change, which starts at zero."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.rank, self.scale = rank, alpha / rank
        kind = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        self.lora_A = nn.Parameter(torch.empty(rank, linear.in_features, **kind))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, **kind))
        _draw(self.lora_A)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scale


def _draw(a: Tensor) -> Tensor:
    return nn.init.kaiming_uniform_(a, a=math.sqrt(5))


def add_lora(model: nn.Module, rank: int, alpha: float, targets: tuple[str, ...]) -> list[str]:
    """Put adapters on the blocks' linear layers whose name holds one of `targets`, freeze all else; returns the names.

    Raises ValueError when a target names no layer: a mistyped target would train nothing, silently.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    layers = {name: layer for name, layer in layers.items() if re.search(r"blocks\.\d+\.", name)}
    for target in targets:
        if not any(target in name for name in layers):
            kinds = sorted({re.sub(r"^.*blocks\.\d+\.", "", name) for name in layers})
            raise ValueError(f"LoRA target {target!r} is in no layer's name; there are {', '.join(kinds)}")
    model.requires_grad_(False)
    chosen = [name for name in layers if any(target in name for target in targets)]
    for name in chosen:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, LoraLinear(layers[name], rank, alpha))
    return chosen


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLinear))


def lora_starts(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What add_lora gives the adapters, one after the other, on the CPU; of the model only shapes are looked at."""
    for name, layer in lora_layers(model):
        yield f"{name}.lora_A", _draw(torch.empty(layer.rank, layer.in_features))
        yield f"{name}.lora_B", torch.zeros(layer.out_features, layer.rank)


def lora_state(model: nn.Module) -> State:
    """The adapters alone, under our names: `<layer>.lora_A`, `<layer>.lora_B`."""
    return {
        f"{name}.{part}": getattr(layer, part).detach()
        for name, layer in lora_layers(model)
        for part in ("lora_A", "lora_B")
    }


def merge_lora(model: nn.Module) -> None:
    """Add the adapters to the weights and take the adapters away, in place."""
    for name, layer in list(lora_layers(model)):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight, plain.bias = layer.weight, layer.bias
        with torch.no_grad():
            plain.weight += layer.scale * (layer.lora_B @ layer.lora_A)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)


def to_peft(model: nn.Module, prefix: str = "transformer.") -> State:
    """Adapters under diffusers' PEFT keys: `transformer.<layer>.lora_A.weight`, `.lora_B.weight`.

    The factor alpha / rank is multiplied into B (these files hold no alpha). The change of a fused matrix is split:
    each of its pieces gets the same A and its own rows of B, which is exact.
    """
    result: State = {}
    for name, layer in lora_layers(model):
        b = layer.lora_B.detach() * layer.scale
        for target, rows in _diffusers_rows(name, layer):
            result[f"{prefix}{target}.lora_A.weight"] = layer.lora_A.detach().clone()
            result[f"{prefix}{target}.lora_B.weight"] = b[rows].contiguous()
    return result


def to_comfyui_lora(model: nn.Module, prefix: str = "diffusion_model.") -> State:
    """Adapters under ComfyUI's keys: the released names with `.lora_down.weight`, `.lora_up.weight`, `.alpha`."""
    result: State = {}
    for name, layer in lora_layers(model):
        result[f"{prefix}{name}.lora_down.weight"] = layer.lora_A.detach().clone()
        result[f"{prefix}{name}.lora_up.weight"] = layer.lora_B.detach().clone()
        result[f"{prefix}{name}.alpha"] = torch.tensor(layer.scale * layer.rank)
    return result


def _diffusers_rows(name: str, layer: LoraLinear) -> list[tuple[str, Tensor]]:
    """The layers of diffusers that this one is, each with the rows of ours that it holds."""
    found = re.search(r"blocks\.(\d+)\.", name)
    number = found[1] if found else ""
    pattern = re.sub(r"blocks\.\d+\.", "blocks.#.", name, count=1)
    rows = torch.arange(layer.out_features)
    if pattern in RENAMED:
        return [(RENAMED[pattern].replace("#", number), rows)]
    if pattern in FUSED:
        names = FUSED[pattern]
        width = layer.in_features
        sizes = [width] * (len(names) - 1) + [layer.out_features - width * (len(names) - 1)]
        return [(one.replace("#", number), part) for one, part in zip(names, rows.split(sizes), strict=True)]
    raise ValueError(f"{name}: diffusers has no layer for it (of {len(RENAMED) + len(FUSED) + len(SWAPPED)} known)")
