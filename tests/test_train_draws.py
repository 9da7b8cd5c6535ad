from collections import Counter

import numpy as np
import pytest
import torch

from pipelines import Flow
from train.draws import draw, generator, normal

SHAPE = (4, 2, 3, 3)
GOLDEN_T, GOLDEN_VARIANT = 0.5459478311432392, 3
GOLDEN_NOISE = [-1.75479567, 0.94585216, -1.54035497, 0.62099719]


def one(*name, dropout=0.1, variants=4):
    return draw(SHAPE, variants, 256, Flow(), dropout, *name)


def test_a_draw_depends_on_its_name_alone():
    first, again = one(0, 1, 2, 0, "abc", 5), one(0, 1, 2, 0, "abc", 5)
    assert first[:3] == again[:3] and torch.equal(first.noise, again.noise)
    for other in ((1, 1, 2, 0, "abc", 5), (0, 0, 2, 0, "abc", 5), (0, 1, 3, 0, "abc", 5), (0, 1, 2, 1, "abc", 5),
                  (0, 1, 2, 0, "abd", 5), (0, 1, 2, 0, "abc", 6)):  # fmt: skip
        assert one(*other).t != first.t and not torch.equal(one(*other).noise, first.noise)


def test_one_decision_does_not_move_the_others():
    assert one("a", dropout=0.0).t == one("a", dropout=1.0).t
    assert torch.equal(one("a", variants=2).noise, one("a", variants=7).noise)


def test_draws_have_the_distributions_asked_for():
    found = [one("clip", i) for i in range(4000)]
    assert abs(np.mean([d.text_dropped for d in found]) - 0.1) < 0.015
    assert all(abs(count - 1000) < 120 for count in Counter(d.variant for d in found).values())
    logits = torch.logit(torch.tensor([d.t for d in found], dtype=torch.float64))
    assert abs(float(logits.mean())) < 0.06 and abs(float(logits.std()) - 1) < 0.05
    noise = torch.stack([d.noise for d in found])
    assert abs(float(noise.mean())) < 0.01 and abs(float(noise.std()) - 1) < 0.01
    assert abs(float((noise[1:] * noise[:-1]).mean())) < 0.01  # neighbours are independent


def test_golden_draw():
    """Made by this code on its first day: a change of it would change every resumed run."""
    chosen = draw((1, 1, 2, 2), 4, 256, Flow(), 0.1, 0, 1, 2, 3, "0123456789abcdef", 7)
    assert chosen.t == pytest.approx(GOLDEN_T, abs=1e-12)
    assert chosen.variant == GOLDEN_VARIANT
    assert chosen.noise.flatten().tolist() == pytest.approx(GOLDEN_NOISE, abs=1e-6)


def test_names_do_not_run_into_each_other():
    assert generator("a", 11).random() != generator("a", 1, 1).random()
    assert normal((2,), "x").dtype == torch.float32
