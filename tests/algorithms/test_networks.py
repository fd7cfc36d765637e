import math

import pytest
import torch
from torch import nn

from omrlbench.algorithms.networks import (
    EnsembleLinear,
    ensemble_mlp,
    initialize_like_rlkit,
    input_gradient,
    mlp,
    polyak_update,
    squash,
)


def test_ensemble_members_compute_what_separate_networks_compute():
    ensemble = ensemble_mlp(3, 4, (5, 6), 2)
    inputs = torch.randn(3, 7, 4)
    outputs = ensemble(inputs)
    for member in range(3):
        expected = inputs[member]
        for layer in ensemble:
            if isinstance(layer, EnsembleLinear):
                expected = expected @ layer.weight[member] + layer.bias[member]
            else:
                expected = expected.clamp(min=0)
        torch.testing.assert_close(outputs[member], expected)


@pytest.mark.parametrize(
    ("network", "shape"),
    [(mlp(4, (8, 8, 8), 3), (5, 4)), (mlp(4, (8,), 3), (2, 5, 4)), (ensemble_mlp(2, 4, (8, 8), 3), (2, 5, 4))],
)
def test_a_network_computes_to_the_bit_what_its_layers_do(network, shape):
    inputs = torch.randn(shape, requires_grad=True)
    wanted = [inputs, *network.parameters()]
    whole, by_layer = network(inputs), nn.Sequential(*network)(inputs)
    assert torch.equal(whole, by_layer)
    gradients = [torch.autograd.grad(outputs.square().sum(), wanted) for outputs in (whole, by_layer)]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_input_gradient_equals_double_backward():
    network = mlp(6, (16, 16, 16), 1)
    inputs = torch.randn(50, 6, requires_grad=True)
    (reference,) = torch.autograd.grad(nn.Sequential(*network)(inputs).sum(), inputs, create_graph=True)
    weights = list(network.parameters())[::2]
    expected = torch.autograd.grad((reference[:, 2:4].norm(dim=1) - 0.1).square().mean(), weights)
    gradient = input_gradient(network, inputs.detach(), slice(2, 4))
    torch.testing.assert_close(gradient, reference[:, 2:4])
    actual = torch.autograd.grad((gradient.norm(dim=1) - 0.1).square().mean(), weights)
    torch.testing.assert_close(actual, expected)


def test_input_gradient_of_an_ensemble_is_that_of_each_member():
    ensemble = ensemble_mlp(3, 6, (16, 16), 1)
    inputs = torch.randn(3, 50, 6, requires_grad=True)
    (expected,) = torch.autograd.grad(nn.Sequential(*ensemble)(inputs).sum(), inputs)
    torch.testing.assert_close(input_gradient(ensemble, inputs.detach(), slice(2, 4)), expected[..., 2:4])


def test_squashed_density_integrates_to_one_and_matches_torch():
    mean, log_std, noise = torch.tensor([[0.3]]), torch.tensor([[-0.5]]), torch.tensor([[0.8]])
    action, log_pi = squash(mean, log_std, noise)
    base = torch.distributions.Normal(mean, log_std.exp())
    reference = torch.distributions.TransformedDistribution(base, torch.distributions.TanhTransform())
    torch.testing.assert_close(log_pi, reference.log_prob(action).sum(-1))
    grid = torch.linspace(-0.9999, 0.9999, 20001)
    density = squash(mean, log_std, (grid.atanh()[:, None] - mean) / log_std.exp())[1].exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1.0, abs=1e-3)


def test_squashed_density_stays_finite_at_the_border():
    _, log_pi = squash(torch.tensor([[30.0]]), torch.tensor([[0.0]]), torch.tensor([[0.0]]))
    assert log_pi.item() == pytest.approx(-0.5 * math.log(2 * math.pi) - 2 * (math.log(2) - 30.0))


def test_polyak_update_moves_by_the_rate():
    target, online = nn.Linear(1, 1), nn.Linear(1, 1)
    target.weight.data.fill_(1.0)
    online.weight.data.fill_(3.0)
    polyak_update(target, online, 0.25)
    assert target.weight.item() == pytest.approx(1.5)
    assert online.weight.item() == 3.0


def test_rlkit_initialisation_uses_the_output_width():
    network = mlp(4, (100, 100), 3)
    initialize_like_rlkit(network, last=3e-3)
    assert network[0].weight.abs().max() <= 0.1 and network[0].weight.abs().max() > 0.095
    assert (network[2].bias == 0.1).all()
    assert network[4].weight.abs().max() <= 3e-3 and network[4].bias.abs().max() <= 3e-3
