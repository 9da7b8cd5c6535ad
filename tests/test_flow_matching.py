import math

import numpy as np
import pytest
import torch

from compat import mend_torchvision
from pipelines import Flow
from train import flow

U = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)


def diffusers_scheduler(shift):
    mend_torchvision()
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=shift)


def test_sigmas_are_those_of_diffusers():
    scheduler = diffusers_scheduler(7.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, 51)[:-1])
    assert torch.allclose(scheduler.sigmas.double(), flow.schedule(50, 7.0), atol=1e-6)
    assert torch.allclose(scheduler.timesteps.double(), flow.network_time(flow.schedule(50, 7.0))[:-1], atol=1e-3)


def test_noised_sample_and_step_are_those_of_diffusers():
    scheduler = diffusers_scheduler(7.0)
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 3, 2, 2, 2, generator=generator).unbind(0)
    t = scheduler.sigmas[[10, 500, 999]]
    theirs = scheduler.scale_noise(data, scheduler.timesteps[[10, 500, 999]], noise)
    assert torch.allclose(flow.mix(data, noise, t), theirs, atol=1e-6)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, 5)[:-1])
    v = flow.velocity(data, noise)
    ts = flow.schedule(4, 7.0)
    stepped = scheduler.step(v, scheduler.timesteps[0], noise).prev_sample
    assert torch.allclose(flow.euler(lambda x, t: v, noise, ts[:2]), stepped, atol=1e-6)


def test_the_released_shift_values():
    half = torch.tensor(0.5)
    assert flow.shifted(half, 7.0).item() == pytest.approx(0.875)
    assert flow.shifted(half, 17.0).item() == pytest.approx(0.9444, abs=1e-4)
    assert flow.shifted(half, 1.0).item() == 0.5


def test_shift_by_resolution_is_one_for_a_256px_picture_and_grows_with_the_square_root():
    by_size = Flow(shift="resolution")
    assert flow.shift_of(by_size, 256) == 1.0
    assert flow.shift_of(by_size, 1024) == 2.0
    assert flow.shift_of(by_size, 64) == 1.0
    assert flow.shift_of(Flow(shift=3.0), 1024) == 3.0


def test_ends_of_the_path():
    data, noise = torch.randn(2, 4, 3, 2)
    assert torch.equal(flow.mix(data, noise, torch.zeros(4)), data)
    assert torch.equal(flow.mix(data, noise, torch.ones(4)), noise)
    t = torch.rand(4)
    assert torch.allclose(flow.data_of(flow.mix(data, noise, t), flow.velocity(data, noise), t), data, atol=1e-6)


@pytest.mark.parametrize("solver", flow.SOLVERS)
def test_the_true_velocity_leads_back_to_the_data(solver):
    data, noise = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    v = flow.velocity(data, noise)
    found = flow.SOLVERS[solver](lambda x, t: v, noise, flow.schedule(7, 5.0))
    assert torch.allclose(found, data, atol=1e-12)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2)])
def test_order_of_convergence(solver, order):
    """Two Gaussians at -1 and 1: the velocity is a posterior mean, and in one dimension a flow keeps quantiles."""
    centres, s = torch.tensor([-1.0, 1.0], dtype=torch.float64), 0.3

    def spread(t):
        return torch.sqrt((1 - t) ** 2 * s**2 + t**2)

    def exact(x, t):
        away = x[:, None] - (1 - t) * centres
        share = torch.softmax(-0.5 * (away / spread(t)) ** 2, dim=1)
        return (share * (-centres + (t - (1 - t) * s**2) / spread(t) ** 2 * away)).sum(1)

    def error(steps):
        z = torch.tensor([0.7], dtype=torch.float64)
        x = flow.SOLVERS[solver](exact, z, flow.schedule(steps))
        return abs(torch.special.ndtr((x - centres) / s).mean() - torch.special.ndtr(z)).item()

    errors = [error(steps) for steps in (100, 200, 400)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(order, abs=0.25)


def test_logit_normal_quantiles():
    t = flow.times(U, Flow(mean=0.3, scale=0.7), 256)
    assert torch.allclose(torch.special.ndtr((torch.logit(t) - 0.3) / 0.7), U, atol=1e-9)
    assert flow.times(torch.tensor([0.5]), Flow(), 256).item() == pytest.approx(0.5)


def test_mixed_quantiles_invert_the_mean_of_both_distributions():
    t = flow.times(U, Flow(sampler="mixed"), 256)
    assert torch.allclose((t + torch.special.ndtr(torch.logit(t))) / 2, U, atol=1e-9)


def test_uniform_is_itself_and_every_sampler_rises():
    assert torch.equal(flow.times(U, Flow(sampler="uniform"), 256), U)
    for sampler in flow.QUANTILES:
        t = flow.times(U, Flow(sampler=sampler, shift=7.0), 256)
        assert bool((t.diff() > 0).all()) and t.min() > 0 and t.max() < 1


def test_guidance_of_one_is_the_conditional():
    conditional, unconditional = torch.randn(2, 5)
    assert torch.allclose(flow.guided(conditional, unconditional, 1.0), conditional)
    assert torch.allclose(flow.guided(conditional, unconditional, 0.0), unconditional)
