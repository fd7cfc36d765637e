"""Divergences between a policy and the data's actions, given a state and a task embedding (BRAC, Wu et al. 2019).

`kl` and `w` are dual forms with a learned discriminator c(s, a, z). Shapes: states (batch, observation_dim), actions
(batch, action_dim), embeddings (batch, latent); results (batch,). An ensemble of discriminators, one per task, takes
all of them with the tasks in front.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omrlbench.algorithms.networks import input_gradient

MMD_BANDWIDTH = 20.0  # sigma of the Laplacian kernel, as in the authors' FOCAL program


def dual_kl(discriminator: nn.Module, s: Tensor, a_pi: Tensor, a_data: Tensor, z: Tensor) -> Tensor:
    """Dual form of KL(pi || data): log g(a_pi) - g(a_data) + 1 with g = softplus(c)."""
    c_pi, c_data = _at_both(discriminator, s, a_pi, a_data, z)
    return log_softplus(c_pi) - F.softplus(c_data) + 1


def dual_w(discriminator: nn.Module, s: Tensor, a_pi: Tensor, a_data: Tensor, z: Tensor) -> Tensor:
    """Dual form of the Wasserstein distance (Kantorovich-Rubinstein): c(a_pi) - c(a_data), c of slope 1 at most."""
    c_pi, c_data = _at_both(discriminator, s, a_pi, a_data, z)
    return c_pi - c_data


def _at_both(discriminator: nn.Module, s: Tensor, a_pi: Tensor, a_data: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    inputs = torch.cat([torch.cat([s, s], -2), torch.cat([a_pi, a_data], -2), torch.cat([z, z], -2)], -1)
    c_pi, c_data = discriminator(inputs).squeeze(-1).chunk(2, -1)
    return c_pi, c_data


def policy_kl(discriminator: nn.Module, s: Tensor, a_pi: Tensor, z: Tensor) -> Tensor:
    """log g(a_pi), the part of `dual_kl` that depends on the policy.

    At the optimal discriminator g is the density ratio, and the rest, 1 - E_data[g], is zero.
    """
    return log_softplus(discriminator(torch.cat([s, a_pi, z], -1))).squeeze(-1)


def policy_w(discriminator: nn.Module, s: Tensor, a_pi: Tensor, z: Tensor) -> Tensor:
    """c(a_pi), the part of `dual_w` that depends on the policy."""
    return discriminator(torch.cat([s, a_pi, z], -1)).squeeze(-1)


def log_softplus(x: Tensor) -> Tensor:
    """log(softplus(x)), which tends to x far below zero, where softplus itself underflows."""
    return torch.where(x < -15, x, F.softplus(x.clamp(min=-15)).log())


def mmd(a_pi: Tensor, a_data: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of policy actions (m, batch, action_dim) to the one of the data at each state.

    The mean of k(x, y) = exp(-|x - y|_1 / sigma) over pairs of different policy actions, minus twice that to the
    data's action, plus its value 1 at equal actions.
    """
    among = _laplacian(a_pi[:, None], a_pi[None])  # (m, m, batch)
    m = len(a_pi)
    return (among.sum((0, 1)) - m) / (m * (m - 1)) - 2 * _laplacian(a_pi, a_data).mean(0) + 1


def _laplacian(x: Tensor, y: Tensor) -> Tensor:
    return (-(x - y).abs().sum(-1) / MMD_BANDWIDTH).exp()


def gradient_penalty(discriminator: nn.Module, s: Tensor, a: Tensor, z: Tensor) -> Tensor:
    """Mean squared excess over 1 of the discriminator's gradient norm with respect to the action (BRAC)."""
    action = slice(s.shape[-1], s.shape[-1] + a.shape[-1])
    gradient = input_gradient(discriminator, torch.cat([s, a, z], -1), action)
    return (gradient.square().sum(-1).add(1e-8).sqrt() - 1).relu().square().mean()


def output_penalty(discriminator: nn.Module, s: Tensor, a: Tensor, z: Tensor) -> Tensor:
    """What FOCAL's authors' program computes in its place: the excess over 1 of the discriminator's output."""
    output = discriminator(torch.cat([s, a, z], -1))
    return (output.square().add(1e-8).sqrt() - 1).relu().square().mean()
