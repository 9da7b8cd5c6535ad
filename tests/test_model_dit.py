"""The transformer by itself: sizes, empty texts, padding, times of single frames, checkpointing, precision."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.attention import crop_text
from model.checkpointing import CHECKPOINTING
from model.dit import DiT, compile_blocks
from model.embedders import patches, unpatch
from model.flops import forward_flops, parameters, training_flops
from model.rope import rope_table, rotate
from model.sizes import SIZES
from tests.model_reference import SMALL, inputs, ours


def on_meta(name: str) -> DiT:
    with torch.device("meta"):
        return DiT(**SIZES[name])


def test_parameter_counts_are_the_published_ones() -> None:
    counts = {name: sum(weight.numel() for weight in on_meta(name).parameters()) for name in SIZES}
    assert counts["hunyuan-13b"] == 12_810_782_784
    assert counts["hunyuan-13b-guidance"] == 12_821_012_544
    assert counts == {name: parameters(size) for name, size in SIZES.items()}


@pytest.mark.parametrize(
    ("tokens", "forward_tf"),
    [(256, 7.15), (1024, 18.6), (2304, 39.6), (4352, 78.3), (8448, 174), (30360, 1107), (51000, 2634), (118800, 12068)],
)
def test_flops_equal_the_published_table(tokens: int, forward_tf: float) -> None:
    flops = forward_flops(SIZES["hunyuan-13b"], tokens, 256)
    assert flops.blocks / 1e12 == pytest.approx(forward_tf, rel=2e-3)
    assert flops.blocks < flops.total < 1.03 * flops.blocks


def test_flops_equal_what_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode  # pulls in much: only here

    size = SMALL | {"patch": (2, 2, 2)}
    model, given = ours(size), inputs(size, (4, 8, 8), (6, 6), padded=6)
    # The plain kernel: the counter knows no other on the CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss = model(**given).square().mean()
    assert counter.get_total_flops() == forward_flops(size, video=32, text=6, batch=2).total
    assert training_flops(size, 32, 6, 2) == 3 * forward_flops(size, 32, 6, 2).total
    assert loss.isfinite()


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_checkpointing_changes_memory_and_nothing_else(checkpointing: str) -> None:
    model, given = ours(SMALL), inputs(SMALL, (2, 8, 8), (9, 4))
    plain = model(**given)
    plain.square().mean().backward()
    expected = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    model.checkpoint_blocks(checkpointing)
    out = model(**given)
    out.square().mean().backward()
    assert torch.equal(out, plain)
    for name, weight in model.named_parameters():
        assert weight.grad is not None and torch.equal(weight.grad, expected[name]), name  # type: ignore[arg-type]


def test_a_text_without_tokens_gives_no_nan_and_ignores_its_padding() -> None:
    model = ours(SMALL)
    given = inputs(SMALL, (2, 4, 4), (0, 5))
    out = model(**given)
    out.square().mean().backward()
    assert out.isfinite().all() and all(weight.grad.isfinite().all() for weight in model.parameters())  # type: ignore[union-attr]
    other = dict(given, text=torch.where(given["text_mask"][..., None], given["text"], 7.0))  # type: ignore[index]
    assert torch.allclose(model(**other), out, atol=1e-6)
    alone = inputs(SMALL, (2, 4, 4), (0, 0), padded=6)
    assert model(**alone).isfinite().all()


def test_padding_and_neighbours_change_nothing() -> None:
    model, given = ours(SMALL), inputs(SMALL, (2, 4, 6), (7, 3))
    both = model(**given)
    alone = {name: value[1:] for name, value in given.items() if value is not None}
    assert (model(**alone) - both[1:]).abs().max() <= 1e-5
    exact = alone | {"text": alone["text"][:, :3], "text_mask": None}
    assert (model(**exact) - both[1:]).abs().max() <= 1e-5


def test_text_is_cropped_to_the_longest_and_masked_only_when_lengths_differ() -> None:
    text = torch.zeros(2, 9, 3)
    for lengths, longest, masked in (((4, 4), 4, False), ((2, 5), 5, True), ((0, 0), 1, True), ((9, 9), 9, False)):
        cropped, mask = crop_text(text, torch.arange(9) < torch.tensor(lengths)[:, None])
        assert cropped.shape[1] == longest and (mask is not None) == masked


def test_equal_times_of_single_frames_are_one_time() -> None:
    model, given = ours(SMALL), inputs(SMALL, (3, 4, 4), (4, 4))
    t = given["t"]
    assert t is not None
    assert (model(**given) - model(**(given | {"t": t[:, None].expand(-1, 3)}))).abs().max() <= 1e-5


def test_guidance_must_fit_the_model() -> None:
    given = inputs(SMALL, (1, 4, 4), (2,))
    with pytest.raises(ValueError, match="guidance"):
        ours(SMALL)(**(given | {"guidance": torch.ones(1)}))
    with pytest.raises(ValueError, match="guidance"):
        ours(SMALL | {"guidance": True})(**given)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="rope_axes"):
        DiT(**(SMALL | {"rope_axes": (4, 4, 6)}))
    with pytest.raises(ValueError, match="patch"):
        ours(SMALL)(**inputs(SMALL, (1, 5, 4), (2,)))


def test_patches_are_undone() -> None:
    video = torch.randn(2, 3, 4, 6, 8)
    rows = patches(video, (2, 3, 2)).unflatten(2, (3, -1)).transpose(2, 3).flatten(2)  # channels last, as the output is
    assert rows.shape == (2, 2 * 2 * 4, 36)
    model = DiT(**SMALL)
    x = torch.randn(2, 4, 3, 6, 4)
    assert torch.allclose(model.img_in(x), model.img_in.proj(x).flatten(2).transpose(1, 2), atol=1e-6)
    tokens = torch.randn(2, 2 * 2 * 4, 36)
    back = patches(unpatch(tokens, (2, 2, 4), (2, 3, 2)), (2, 3, 2))
    assert torch.equal(back, tokens)


def test_rope_turns_pairs_by_their_place_and_keeps_lengths() -> None:
    table = rope_table((2, 3, 4), (4, 6, 6), 256.0, text=5, device=torch.device("cpu"))
    assert table.shape == (29, 8, 2)
    assert torch.equal(table[0], torch.tensor([[1.0, 0.0]] * 8)) and torch.equal(
        table[24:], table[:1].expand(5, -1, -1)
    )
    place = (1 * 3 + 2) * 4 + 3  # frame 1, row 2, column 3
    angles = torch.tensor([1.0, 256 ** (-1 / 2), 2.0, 2 * 256 ** (-1 / 3), 2 * 256 ** (-2 / 3), 3.0])
    assert torch.allclose(table[place, :6, 0], angles.cos(), atol=1e-6)
    x = torch.randn(2, 29, 3, 16)
    turned = rotate(x, table)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5) and torch.equal(turned[:, 24:], x[:, 24:])
    assert rotate(x.bfloat16(), table).dtype == torch.bfloat16 and rotate(x.double(), table).dtype == torch.float64


def test_a_new_model_answers_zero_and_every_weight_can_learn() -> None:
    torch.manual_seed(0)
    model, given = DiT(**SMALL), inputs(SMALL, (2, 4, 4), (3, 2))
    assert not model(**given).any()
    for _ in range(6):  # output layer, modulations, what is behind their gates, the refiner's gates, and so on
        ((model(**given) - 1) ** 2).mean().backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.1 * weight.grad
        still = [name for name, weight in model.named_parameters() if not weight.grad.any()]
        model.zero_grad()
    assert not still


def test_bf16_stays_near_fp32() -> None:
    model, given = ours(SMALL), inputs(SMALL, (2, 8, 8), (5, 5))
    exact = model(**given)
    rough = model.bfloat16()(**given)
    assert rough.dtype == torch.bfloat16
    assert ((rough.float() - exact).norm() / exact.norm()) < 0.03


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_compiled_blocks_answer_the_same(checkpointing: str) -> None:
    if not any(shutil.which(name) for name in ("g++", "clang++")):
        pytest.skip("no C++ compiler for torch.compile")
    model, given = ours(SMALL), inputs(SMALL, (2, 4, 4), (5, 3))
    expected = model(**given)
    expected.square().mean().backward()
    grads = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    model.checkpoint_blocks(checkpointing)
    compile_blocks(model)
    found = model(**given)
    found.square().mean().backward()
    assert (found - expected).abs().max() <= 1e-5
    for name, weight in model.named_parameters():
        assert (weight.grad - grads[name]).abs().max() <= 1e-4, name  # type: ignore[operator]


def test_compiled_blocks_stay_compiled_whatever_buckets_come():
    """Five buckets with captions of different lengths were enough for PyTorch to give up, and to go on uncompiled."""
    ran = []

    def backend(graph, _inputs):
        def run(*given):
            ran.append(graph)
            return graph.forward(*given)

        return run

    size = SIZES["tiny"] | {"width": 32, "double_blocks": 1, "single_blocks": 1, "rope_axes": (4, 6, 6)}
    model = DiT(**size | {"in_channels": 4, "out_channels": 4, "text_width": 6, "pooled_width": 5})
    compile_blocks(model, backend=backend)
    for shape, lengths in (((3, 1, 4, 4), (5, 5, 5)), ((2, 1, 4, 6), (3, 3)), ((2, 1, 6, 8), (7, 2)), ((5, 1, 8, 8), (1, 2, 3, 4, 5)),
                           ((1, 3, 4, 4), (4,)), ((1, 5, 4, 6), (0,)), ((2, 5, 6, 6), (3, 1))):  # fmt: skip
        x, mask = torch.randn(shape[0], 4, *shape[1:]), torch.arange(7)[None] < torch.tensor(lengths)[:, None]
        ran.clear()
        out = model(x, torch.rand(shape[0]), torch.randn(shape[0], 7, 6), mask, torch.randn(shape[0], 5))
        assert len(ran) == len(model.blocks()), f"uncompiled: {shape} with texts of {lengths}"
        out.sum().backward()
