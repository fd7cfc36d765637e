"""Blocks of batch-constrained Q-learning (BCQ; Fujimoto, Meger and Precup, ICML 2019) on batches of networks.

A variational autoencoder G imitates the data's actions, a perturbation xi moves them a little, and the critics choose
among decoded candidates. Every network is an ensemble of `members` (`networks.ensemble_mlp`), one per task or one in
all, and inputs are (members, batch, features). `features` stands for what conditions the action: the state, or state
and task embedding. The numbers are those of MBML's program (facts A.1).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omrlbench.algorithms.algorithm import Policy
from omrlbench.algorithms.networks import ensemble_mlp

PERTURBATION = 0.05  # largest change of a decoded action
CANDIDATES = 10  # decoded actions per state
MINIMUM_WEIGHT = 0.75  # of the smaller of two critics in a target, the larger has the rest
LATENT_RANGE = 0.5  # of the decoder's latent when sampling
LATENTS_PER_ACTION = 2  # latent dimensions per action dimension
LOG_STD_RANGE = (-4.0, 15.0)  # of the encoder
KL_WEIGHT = 0.5


class ActionDecoder(nn.Module):
    """(features, latent) -> a."""

    def __init__(self, members: int, features: int, action_dim: int, hidden: tuple[int, ...]):
        super().__init__()
        self.latent_dim = LATENTS_PER_ACTION * action_dim
        self.decoder = ensemble_mlp(members, features + self.latent_dim, hidden, action_dim)

    def decode(self, features: Tensor, latent: Tensor) -> Tensor:
        return self.decoder(torch.cat([features, latent], -1)).tanh()

    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        """Actions like the data's; `noise` (members, batch, latent), standard normal, is clipped."""
        return self.decode(features, noise.clamp(-LATENT_RANGE, LATENT_RANGE))


class ActionVAE(ActionDecoder):
    """An encoder (features, a) -> latent Gaussian beside the decoder."""

    def __init__(
        self, members: int, features: int, action_dim: int, hidden: tuple[int, ...], kl_weight: float = KL_WEIGHT
    ):
        super().__init__(members, features, action_dim, hidden)
        self.kl_weight = kl_weight
        self.encoder = ensemble_mlp(members, features + action_dim, hidden, 2 * self.latent_dim)

    def loss(self, features: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
        """Reconstruction plus weighted KL to N(0, I), both averaged over batch and dimensions, summed over members.

        `noise` (members, batch, latent) is standard normal.
        """
        mean, log_std = self.encoder(torch.cat([features, actions], -1)).chunk(2, -1)
        log_std = log_std.clamp(*LOG_STD_RANGE)
        decoded = self.decode(features, mean + log_std.exp() * noise)
        reconstruction = (decoded - actions).square().mean((1, 2))
        kl = -0.5 * (1 + 2 * log_std - mean.square() - (2 * log_std).exp()).mean((1, 2))
        return (reconstruction + self.kl_weight * kl).sum()


def perturbation(members: int, features: int, action_dim: int, hidden: tuple[int, ...]) -> nn.Sequential:
    return ensemble_mlp(members, features + action_dim, hidden, action_dim)


def perturbed(network: nn.Module, features: Tensor, actions: Tensor) -> Tensor:
    """`actions` moved by at most PERTURBATION, within [-1, 1]."""
    change = PERTURBATION * network(torch.cat([features, actions], -1)).tanh()
    return (actions + change).clamp(-1, 1)


def twin_q(critics: nn.Module, features: Tensor, actions: Tensor) -> Tensor:
    """Both critics of every member: (2, members, batch). `critics` are an ensemble of 2 * members."""
    inputs = torch.cat([features, actions], -1)
    return critics(inputs.repeat(2, 1, 1)).unflatten(0, (2, -1)).squeeze(-1)


def soft_minimum(q: Tensor) -> Tensor:
    """The weighted mean of minimum and maximum over the first axis, of two critics."""
    return MINIMUM_WEIGHT * q.amin(0) + (1 - MINIMUM_WEIGHT) * q.amax(0)


def candidates(features: Tensor) -> Tensor:
    """Every row CANDIDATES times, one after the other: (members, batch * CANDIDATES, features)."""
    return features.repeat_interleave(CANDIDATES, 1)


def best_of_candidates(values: Tensor) -> Tensor:
    """The largest of each row's candidates: (members, batch * CANDIDATES) -> (members, batch)."""
    return values.unflatten(1, (-1, CANDIDATES)).amax(-1)


def best_value(
    critics: nn.Module, change: nn.Module, vae: ActionDecoder, features: Tensor, noise: Callable[..., Tensor]
) -> Tensor:
    """The largest soft minimum of `critics` over perturbed decoded candidates, (members, batch).

    `noise` draws standard normal numbers of a shape.
    """
    rows = candidates(features)
    decoded = vae.sample(rows, noise(*rows.shape[:2], vae.latent_dim))
    return best_of_candidates(soft_minimum(twin_q(critics, rows, perturbed(change, rows, decoded))))


def q_loss(q: Tensor, backup: Tensor) -> Tensor:
    """Squared errors of both critics (2, members, batch), averaged over the batch and summed over the rest."""
    return F.mse_loss(q, backup.expand_as(q), reduction="none").mean(-1).sum()


class CandidatePolicy(Policy):
    """The perturbed decoded candidate of the largest value, given z (n, latent).

    `value` maps (1, batch, features) and actions to (1, batch). The decoder's latents are the same in every task and
    step, so that an action depends on observation and z alone.
    """

    def __init__(self, decoder: ActionDecoder, change: nn.Module, value: Callable[[Tensor, Tensor], Tensor], z: Tensor):
        self.decoder, self.change, self.value, self.z = decoder, change, value, z
        generator = torch.Generator(z.device).manual_seed(0)
        self.noise = torch.randn(CANDIDATES, decoder.latent_dim, generator=generator, device=z.device)

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        rows = candidates(torch.cat([observations, self.z], -1)[None])
        decoded = self.decoder.sample(rows, self.noise.repeat(len(observations), 1)[None])
        actions = perturbed(self.change, rows, decoded)
        best = self.value(rows, actions)[0].unflatten(0, (-1, CANDIDATES)).argmax(-1)
        return actions[0].unflatten(0, (-1, CANDIDATES))[torch.arange(len(best), device=best.device), best]
