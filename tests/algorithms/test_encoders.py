"""Combining transitions into task embeddings, against formulas and torch's distributions."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from omrlbench.algorithms.encoders import (
    kl_to_standard_normal,
    mean_of_codes,
    product_of_gaussians,
    transition_features,
    transitions,
)
from omrlbench.testing import PROBLEM, random_context


def test_transitions_hold_every_column_and_leave_out_the_next_observation_on_request():
    context = random_context(PROBLEM, tasks=4, size=5)
    rows = transitions(context)
    assert rows.shape == (4, 5, transition_features(3, 2)) == (4, 5, 9)
    columns = [context.observations, context.actions, context.rewards[..., None], context.next_observations]
    torch.testing.assert_close(rows, torch.cat(columns, -1))
    assert transitions(context, next_observations=False).shape == (4, 5, transition_features(3, 2, False)) == (4, 5, 6)
    assert transitions(context, context).shape == (8, 5, 9)


def test_mean_of_codes_by_hand():
    outputs = torch.tensor([[[0.0], [100.0]]])
    assert mean_of_codes(outputs).item() == pytest.approx(0.5)


def test_product_of_two_gaussians_by_hand():
    """N(0, 1) times N(3, 2) is N(1, 2/3): precision 1 + 1/2, mean (0 + 3/2) * 2/3."""
    raw = torch.tensor([1.0, 2.0]).expm1().log()  # softplus of which is 1 and 2
    outputs = torch.tensor([[[0.0, raw[0]], [3.0, raw[1]]]])
    mean, variance = product_of_gaussians(outputs)
    assert mean.item() == pytest.approx(1.0) and variance.item() == pytest.approx(2 / 3)


def test_product_of_gaussians_is_the_normalised_product_of_densities():
    g = torch.Generator().manual_seed(0)
    outputs = torch.randn(1, 6, 2, generator=g)
    mean, variance = product_of_gaussians(outputs)
    x = torch.linspace(-8, 8, 20_001)
    factors = Normal(outputs[0, :, :1], F.softplus(outputs[0, :, 1:]).sqrt())
    density = factors.log_prob(x).sum(0).exp()
    density /= torch.trapezoid(density, x)
    assert torch.trapezoid(x * density, x).item() == pytest.approx(mean.item(), abs=1e-4)
    assert torch.trapezoid((x - mean[0]) ** 2 * density, x).item() == pytest.approx(variance.item(), abs=1e-4)


def test_a_confident_factor_stays_finite():
    mean, variance = product_of_gaussians(torch.tensor([[[2.0, -200.0], [0.0, 0.0]]]))
    assert mean.item() == pytest.approx(2.0, abs=1e-4) and 0 < variance.item() < 1e-6


def test_kl_is_summed_over_tasks_and_dimensions():
    g = torch.Generator().manual_seed(0)
    mean, variance = torch.randn(4, 3, generator=g), torch.rand(4, 3, generator=g) + 0.1
    expected = kl_divergence(Normal(mean, variance.sqrt()), Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(kl_to_standard_normal(mean, variance), expected)
    assert kl_to_standard_normal(torch.tensor([[2.0]]), torch.tensor([[1.0]])).item() == pytest.approx(2.0)
