"""The written-out backward passes against their plain forms, and against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from model import fused
from model.attention import EPS, RMSNorm, split_heads
from model.fused import Stream, joined_heads, linear_joined, linear_split, norm_modulate
from model.lora import LoraLinear
from model.rope import rope_table, rotate

HEADS, WIDTH = 2, 16


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def norm(seed: int, dtype: torch.dtype = torch.float64) -> RMSNorm:
    made = RMSNorm(WIDTH // HEADS).to(dtype)
    with torch.no_grad():
        made.weight.copy_(torch.randn(WIDTH // HEADS, generator=torch.Generator().manual_seed(seed)))
    return made


def table(video: tuple[int, int, int], text: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return rope_table(video, (2, 2, 4), 256.0, text, torch.device("cpu")).to(dtype)


def plain_heads(turns: Tensor, streams: Sequence[Stream]) -> tuple[Tensor, Tensor, Tensor]:
    parts = [split_heads(one.qkv, HEADS) for one in streams]
    q = torch.cat([one.q_norm(q) for one, (q, _, _) in zip(streams, parts)], dim=1)
    k = torch.cat([one.k_norm(k) for one, (_, k, _) in zip(streams, parts)], dim=1)
    return rotate(q, turns), rotate(k, turns), torch.cat([v for _, _, v in parts], dim=1)


def same(mine: Sequence[Tensor], other: Sequence[Tensor], leaves: Sequence[Tensor], close: float) -> None:
    """Equal values, and equal gradients of a sum with random weights."""
    assert [one.shape for one in mine] == [one.shape for one in other]
    assert all(torch.allclose(a, b, atol=close, rtol=close) for a, b in zip(mine, other))
    factors = [torch.randn_like(one) for one in other]
    found, wanted = (
        torch.autograd.grad(torch.stack([(one * f).sum() for one, f in zip(each, factors)]).sum(), leaves)
        for each in (mine, other)
    )
    for a, b in zip(found, wanted):
        assert b.abs().max() > 1e-3
        assert (a - b).abs().max() <= close * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("texts", [(), (5,)])
def test_heads_of_joined_streams(texts: tuple[int, ...], dtype: torch.dtype, close: float) -> None:
    wide = torch.promote_types(dtype, torch.float32)
    turns = table((2, 3, 2), sum(texts), wide)
    streams = [Stream(random(3, n, 3 * WIDTH, dtype=dtype), norm(n, dtype), norm(n + 1, dtype)) for n in (12, *texts)]
    leaves = [one for s in streams for one in (s.qkv, s.q_norm.weight, s.k_norm.weight)]
    same(joined_heads(turns, HEADS, streams), plain_heads(turns, streams), leaves, close)


def test_heads_have_the_gradient_of_finite_differences() -> None:
    turns, q_norm, k_norm = table((1, 2, 2), 0), norm(1), norm(2)
    assert gradcheck(lambda qkv: joined_heads(turns, HEADS, [Stream(qkv, q_norm, k_norm)]), (random(1, 4, 3 * WIDTH),))


def test_rotated_queries_keep_the_length_that_the_norm_gave() -> None:
    ones = RMSNorm(WIDTH // HEADS).double()
    q, _, v = joined_heads(table((2, 3, 2), 0), HEADS, [Stream(qkv := random(2, 12, 3 * WIDTH), ones, ones)])
    assert torch.allclose(q.square().mean(dim=-1), torch.ones(2, 12, HEADS, dtype=torch.float64), atol=1e-5)
    assert torch.equal(v, split_heads(qkv, HEADS)[2])


def linears() -> list[tuple[str, Callable[[int, int], nn.Module]]]:
    return [
        ("plain", lambda a, b: nn.Linear(a, b).double()),
        ("lora", lambda a, b: LoraLinear(nn.Linear(a, b).double(), 2, 2.0)),
    ]


@pytest.mark.parametrize(("_kind", "make"), linears())
def test_fused_layers_split_and_joined(_kind: str, make: Callable[[int, int], nn.Module]) -> None:
    torch.manual_seed(0)
    split, join = make(WIDTH, 7), make(12, 6)
    for layer in (split, join):
        for one in layer.parameters():
            one.data.normal_()
            one.requires_grad_()
    x, left, right = random(2, 5, WIDTH), random(2, 5, 8), random(2, 5, 4)
    same(linear_split(split, x, (4, 3)), split(x).split((4, 3), dim=-1), [x, *split.parameters()], 1e-12)
    together = join(torch.cat((left, right), dim=-1))
    same([linear_joined(join, left, right)], [together], [left, right, *join.parameters()], 1e-12)


def test_a_frozen_layer_gets_no_gradient_and_passes_one_on() -> None:
    torch.manual_seed(0)
    split, join = nn.Linear(WIDTH, 7).double().requires_grad_(False), nn.Linear(7, 6).double().requires_grad_(False)
    x = random(2, 5, WIDTH)
    left, right = linear_split(split, x, (4, 3))
    linear_joined(join, left, right).sum().backward()
    other = x.detach().clone().requires_grad_()
    join(split(other)).sum().backward()
    assert split.weight.grad is None and join.bias.grad is None
    assert x.grad is not None and other.grad is not None and torch.allclose(x.grad, other.grad, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 5e-6)])
@pytest.mark.parametrize("short", [0, 1 << 30])
def test_norm_and_modulation(
    batch: int, groups: int, dtype: torch.dtype, close: float, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "SHORT", short)
    x = random(batch, 12, WIDTH, dtype=dtype)
    shift, scale = random(batch, groups, WIDTH, dtype=dtype), random(batch, groups, WIDTH + 1, dtype=dtype)[..., 1:]
    runs = F.layer_norm(x, (WIDTH,), eps=EPS).unflatten(1, (groups, -1))
    plain = (runs * (1 + scale[:, :, None]) + shift[:, :, None]).flatten(1, 2)
    same([norm_modulate(x, shift, scale)], [plain], [x, shift, scale], close)
