"""Divergences against values worked out by hand; the released program's are those of its published code."""

import math

import pytest
import torch
from torch import nn

from omrlbench.algorithms.divergences import (
    dual_kl,
    dual_w,
    gradient_penalty,
    mmd,
    output_penalty,
    policy_kl,
    policy_w,
)


class ByAction(nn.Module):
    """A discriminator that puts out its first action coordinate; inputs are (s, a, z) of sizes 2, 2, 3."""

    def forward(self, inputs):
        return inputs[..., 2:3]


@pytest.mark.parametrize(("c_pi", "c_data", "expected"), [(0.0, 0.0, -0.05966), (1.0, -1.0, 0.95925)])
def test_dual_kl_values(c_pi, c_data, expected):
    s, z = torch.zeros(1, 2), torch.zeros(1, 3)
    d = dual_kl(ByAction(), s, torch.tensor([[c_pi, 0.0]]), torch.tensor([[c_data, 0.0]]), z)
    assert d.item() == pytest.approx(expected, abs=1e-5)


def test_dual_kl_is_zero_where_the_density_ratio_is_one():
    a = torch.tensor([[0.541325, 0.0]])
    d = dual_kl(ByAction(), torch.zeros(1, 2), a, a, torch.zeros(1, 3))
    assert d.item() == pytest.approx(0.0, abs=1e-6)


def test_dual_kl_stays_finite_far_from_the_data():
    a = torch.tensor([[-200.0, 0.0]], requires_grad=True)
    d = dual_kl(ByAction(), torch.zeros(1, 2), a, torch.zeros(1, 2), torch.zeros(1, 3))
    d.sum().backward()
    assert d.item() == pytest.approx(-200 - math.log(2) + 1) and a.grad[0, 0].item() == 1.0


def test_released_output_penalty():
    s, z = torch.zeros(1, 2), torch.zeros(1, 3)
    assert 5 * output_penalty(ByAction(), s, torch.tensor([[1.5, 0.0]]), z).item() == pytest.approx(1.25, abs=1e-4)
    assert output_penalty(ByAction(), s, torch.tensor([[-1.0, 0.0]]), z).item() == pytest.approx(0.0, abs=1e-12)


def test_gradient_penalty_of_a_one_unit_discriminator():
    network = nn.Sequential(nn.Linear(7, 1), nn.ReLU(), nn.Linear(1, 1))
    network[0].weight.data[:] = torch.tensor([9.0, 9.0, 3.0, 4.0, 9.0, 9.0, 9.0])
    network[0].bias.data.fill_(1.0)  # the unit is active at the origin
    network[2].weight.data.fill_(1.0)
    penalty = gradient_penalty(network, torch.zeros(6, 2), torch.zeros(6, 2), torch.zeros(6, 3))
    assert penalty.item() == pytest.approx((5 - 1) ** 2, rel=1e-4)  # the norm over the action (3, 4) is 5


def test_dual_w_is_the_difference_of_outputs():
    a_pi, a = torch.tensor([[0.7, 0.0]]), torch.tensor([[-0.2, 0.0]])
    s, z = torch.zeros(1, 2), torch.zeros(1, 3)
    assert dual_w(ByAction(), s, a_pi, a, z).item() == pytest.approx(0.9)


def test_policy_parts_are_the_divergences_without_the_data():
    s, z, g = torch.randn(5, 2), torch.randn(5, 3), torch.Generator().manual_seed(0)
    a_pi, a = torch.rand(5, 2, generator=g), torch.rand(5, 2, generator=g)
    of_data = 1 - nn.functional.softplus(a[:, 0])
    torch.testing.assert_close(policy_kl(ByAction(), s, a_pi, z) + of_data, dual_kl(ByAction(), s, a_pi, a, z))
    torch.testing.assert_close(policy_w(ByAction(), s, a_pi, z) - a[:, 0], dual_w(ByAction(), s, a_pi, a, z))


def test_mmd_by_hand():
    """Policy actions 0 and 20 beside the data's 0: k is exp(-1) at a distance of 20."""
    a_pi, a = torch.tensor([[[0.0]], [[20.0]]]), torch.tensor([[0.0]])
    k = math.exp(-1)
    assert mmd(a_pi, a).tolist() == pytest.approx([k - 2 * (1 + k) / 2 + 1])
    assert mmd(a_pi * 0, a).item() == pytest.approx(0.0, abs=1e-6)


def test_mmd_falls_as_the_policy_comes_near():
    g = torch.Generator().manual_seed(0)
    noise, a = torch.randn(64, 7, 2, generator=g), torch.zeros(7, 2)
    far, near = mmd(0.1 * noise + 0.5, a), mmd(0.1 * noise + 0.1, a)
    assert far.shape == (7,) and (far > near).all()
