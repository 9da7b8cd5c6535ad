"""The arithmetic of a step: losses, accumulation, AdamW, average, precision."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines import Stage
from train import stages
from train.batch import Batch, padded
from train.distributed import World
from train.losses import velocity_loss
from train.memory import TooLarge
from train.optim import Weights, decay, learning_rate
from train.plan import MicroBatch
from train.step import NotFinite, sample_losses, train_step

ALONE = World(0, 1, torch.device("cpu"))
SIZE = {"width": 32, "heads": 2, "double_blocks": 1, "single_blocks": 1, "refiner_blocks": 1, "rope_axes": (4, 6, 6)}
WIDTHS = stages.Widths(channels=4, text=6, pooled=5)
BUCKET = "1x32x32"  # 4 tokens


def stage(**settings) -> Stage:
    given = {"feeds": [{"set": "a", "view": "b"}], "tokens": 16, "steps": 20, "lr": 1e-3, "precision": "float64"}
    return Stage.model_validate(given | settings)


def weights(seed: int = 0, **settings) -> Weights:
    """Modulations and output start at zero: they are given values, or most gradients would vanish."""
    model = stages.build(SIZE, WIDTHS, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for one in model.parameters():
            one += 0.05 * torch.randn(one.shape, generator=generator)
    return Weights(model, stage(**settings))


def batch(count: int, seed: int, lengths=(3, 1, 0, 2)) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    data, noise = torch.randn(2, count, 4, 1, 4, 4, generator=generator)
    lengths = torch.tensor([lengths[i % len(lengths)] for i in range(count)])
    mask = torch.arange(3)[None] < lengths[:, None]
    text, pooled = torch.randn(count, 3, 6, generator=generator), torch.randn(count, 5, generator=generator)
    t = torch.rand(count, generator=generator, dtype=torch.float64)
    return Batch(BUCKET, 4, ("x",) * count, data, noise, t, text * mask[..., None], mask, pooled)


def part(whole: Batch, chosen: slice) -> Batch:
    tensors = {name: getattr(whole, name)[chosen] for name in ("data", "noise", "t", "text", "mask", "pooled")}
    return whole._replace(**tensors, names=whole.names[chosen])


def micro(count: int, name: str = "c") -> MicroBatch:
    clips = tuple(f"{name}{i}" for i in range(count))
    return MicroBatch(0, BUCKET, 0, (0,) * count, (0,) * count, clips, (0,) * count, (0,), 1.0)


def test_velocity_loss_by_hand():
    predicted = torch.tensor([[[[[1.0, 2.0]]]], [[[[0.0, 0.0]]]]])
    target = torch.tensor([[[[[0.0, 0.0]]]], [[[[0.0, 3.0]]]]])
    assert velocity_loss(predicted, target).tolist() == [2.5, 4.5]
    assert velocity_loss(predicted.bfloat16(), target.bfloat16()).dtype == torch.float32
    assert velocity_loss(predicted.double(), target.double()).dtype == torch.float64


def test_unequal_micro_batches_add_up_to_the_whole_batch():
    whole = batch(5, 0)
    together, apart = weights(), weights()
    one = train_step(together, [micro(5)], [0], [whole], ALONE, 0)
    two = train_step(
        apart, [micro(4), micro(1)], [0, 1], [part(whole, slice(0, 4)), part(whole, slice(4, 5))], ALONE, 0
    )
    assert torch.allclose(one.losses, two.losses, atol=1e-12)
    assert one.norm == pytest.approx(two.norm, rel=1e-9)
    for name, value in together.masters.items():
        assert torch.allclose(value, apart.masters[name], atol=1e-9), name


def test_update_is_that_of_adamw_on_the_clipped_mean():
    ours, data = weights(weight_decay=0.1, clip_norm=0.5, lr=0.01), batch(3, 1)
    reference = weights(weight_decay=0.1)
    parameters = list(reference.model.parameters())
    matrices = [one for one in parameters if one.ndim > 1]
    others = [one for one in parameters if one.ndim <= 1]
    adam = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
                             lr=0.01, betas=(0.9, 0.99))  # fmt: skip
    for step in range(3):
        result = train_step(ours, [micro(3)], [0], [data], ALONE, step)
        sample_losses(reference.model, data.to(ALONE.device, torch.float64), reference.stage.losses).mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        adam.step()
        adam.zero_grad()
        assert result.norm == pytest.approx(float(norm), rel=1e-9)
    for name, value in reference.model.named_parameters():
        assert torch.allclose(value, ours.masters[name], atol=1e-9), name


def test_average_equals_its_closed_form():
    chosen = weights(ema=0.3)
    decays = [0.1, 2 / 11, 0.25, 0.3]  # (1 + n) / (10 + n), until 0.3 is reached
    assert [decay(chosen.stage, step) for step in range(4)] == pytest.approx(decays)
    expected = {name: one.detach().clone() for name, one in chosen.masters.items()}
    for step in range(4):
        train_step(chosen, [micro(2)], [0], [batch(2, step)], ALONE, step)
        for name, one in chosen.masters.items():
            expected[name] = decays[step] * expected[name] + (1 - decays[step]) * one.detach()
    assert all(torch.allclose(one, expected[name], atol=1e-12) for name, one in chosen.average.items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_averaged_weights_are_lent_and_given_back(precision):
    chosen, data = weights(precision=precision, ema=0.5), batch(2, 0).to(ALONE.device, torch.float32)
    train_step(chosen, [micro(2)], [0], [batch(2, 0)], ALONE, 0)
    before = {name: one.detach().clone() for name, one in chosen.model.named_parameters()}
    with torch.no_grad():
        raw = sample_losses(chosen.model, data, chosen.stage.losses)
        with chosen.averaged():
            lent = dict(chosen.model.named_parameters())
            assert any(not torch.equal(lent[name], before[name]) for name in before)
            assert not torch.equal(sample_losses(chosen.model, data, chosen.stage.losses), raw)
        assert torch.equal(sample_losses(chosen.model, data, chosen.stage.losses), raw)
    assert all(torch.equal(one, before[name]) for name, one in chosen.model.named_parameters())


def test_bfloat16_keeps_float32_masters_and_stays_near_them():
    """Updates far below bfloat16's resolution must not be lost, and losses stay within rounding."""
    low, full = weights(precision="bfloat16", lr=1e-5), weights(precision="float32", lr=1e-5)
    start = {name: one.detach().clone() for name, one in low.masters.items()}
    for step in range(10):
        ours = train_step(low, [micro(4)], [0], [batch(4, 0)], ALONE, step).losses.mean()
        theirs = train_step(full, [micro(4)], [0], [batch(4, 0)], ALONE, step).losses.mean()
        assert float(ours) == pytest.approx(float(theirs), rel=0.02)
    assert all(one.dtype == torch.bfloat16 for one in low.model.parameters())
    moved = [float((one.detach() - start[name]).abs().max()) for name, one in low.masters.items()]
    assert sum(change > 5e-5 for change in moved) > 0.9 * len(moved)  # about 10 x lr


def test_a_sample_that_is_no_number_is_named_and_changes_nothing():
    chosen = weights()
    bad = batch(3, 0)
    bad.data[1] = math.nan
    before = {name: one.detach().clone() for name, one in chosen.masters.items()}
    with pytest.raises(NotFinite, match=r"1 of 5 samples: second1 of 1x32x32"):
        train_step(chosen, [micro(2, "first"), micro(3, "second")], [0, 1], [batch(2, 1), bad], ALONE, 0)
    assert all(torch.equal(one, before[name]) for name, one in chosen.masters.items())


def test_learning_rates():
    warm = stage(warmup_steps=4, schedule="cosine", steps=24, lr=1.0)
    assert [learning_rate(warm, i) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate(warm, 14) == pytest.approx(0.5)
    assert learning_rate(stage(schedule="linear", steps=10, lr=1.0), 9) == pytest.approx(0.1)
    assert learning_rate(stage(lr=0.3), 19) == 0.3


def test_padding_is_as_long_as_the_longest_text():
    from model.text import TextStates

    texts = [TextStates(torch.ones(length, 6), torch.ones(5)) for length in (2, 0, 5)]
    states, mask, pooled = padded(texts)
    assert states.shape == (3, 5, 6) and pooled.shape == (3, 5)
    assert mask.sum(dim=1).tolist() == [2, 0, 5]
    assert padded(texts[1:2])[0].shape == (1, 1, 6)


def test_a_batch_without_any_text_gives_numbers():
    result = train_step(weights(), [micro(2)], [0], [batch(2, 0, lengths=(0, 0))], ALONE, 0)
    assert bool(torch.isfinite(result.losses).all())


# Mean losses of ten steps on fixed batches; printed anew by `python -m tests.test_train_step`.
GOLDEN = [2.0341491699, 1.9077044010, 2.2178173065, 1.9471407890, 2.0666195869, 2.1240869045, 1.8460042238, 2.2904229879,
          2.0429580212, 2.0771122694]  # fmt: skip
BF16_BAND = 1e-3  # relative, per step; the largest distance seen is 2e-4


def curve(precision: str) -> list[float]:
    trained = weights(precision=precision, lr=3e-3, warmup_steps=2, schedule="cosine", weight_decay=0.01)
    told = []
    for step in range(10):
        given = [batch(3, 2 * step), batch(2, 2 * step + 1)]
        told.append(float(train_step(trained, [micro(3), micro(2)], [0, 1], given, ALONE, step).losses.mean()))
    return told


def test_ten_steps_give_the_golden_curve():
    assert curve("float32") == pytest.approx(GOLDEN, rel=1e-5)  # another processor adds in another order


def test_bfloat16_stays_in_its_band():
    assert curve("bfloat16") == pytest.approx(GOLDEN, rel=BF16_BAND)


if __name__ == "__main__":
    for precision in ("float32", "bfloat16"):
        print(precision, *(f"{old:.10f} -> {new:.10f}" for old, new in zip(GOLDEN, curve(precision))), sep="\n  ")


def test_a_micro_batch_that_memory_does_not_hold_is_named_with_what_helps():
    huge = batch(1, 0)._replace(
        **{name: torch.zeros(1).expand(1, 4, 1, 1 << 22, 1 << 22) for name in ("data", "noise")}
    )
    trained = weights(shard="full")
    before = {name: one.detach().clone() for name, one in trained.masters.items()}
    wanted = r"bucket 1x32x32 \(1 samples of 4 tokens\) does not fit .*: full`, `reduce: micro_batch` or more GPUs"
    with pytest.raises(TooLarge, match=wanted):
        train_step(trained, [micro(1)], [0], [huge], ALONE, 0)
    assert all(torch.equal(one, before[name]) for name, one in trained.masters.items())
