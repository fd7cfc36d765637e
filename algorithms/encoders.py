"""Task embeddings from context transitions: a mean of codes, or a product of Gaussians (PEARL, Rakelly et al. 2019).

A context encoder is a network on single transitions; what combines its outputs does not depend on their order.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from omrlbench.algorithms.algorithm import Context

SMALLEST_VARIANCE = 1e-7


def transitions(*contexts: Context, next_observations: bool = True) -> Tensor:
    """(s, a, r, s') or (s, a, r) of every context transition, contexts stacked along n: (n, k, features)."""
    fields = ["observations", "actions", "rewards"] + ["next_observations"] * next_observations
    columns = [torch.cat([getattr(context, field) for context in contexts]) for field in fields]
    columns[2] = columns[2][..., None]
    return torch.cat(columns, -1)


def transition_features(observation_dim: int, action_dim: int, next_observations: bool = True) -> int:
    return observation_dim * (2 if next_observations else 1) + action_dim + 1


def mean_of_codes(outputs: Tensor) -> Tensor:
    """The mean over transitions of tanh, in (-1, 1): (n, k, latent) -> (n, latent)."""
    return outputs.tanh().mean(1)


def product_of_gaussians(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (n, latent) of the product of the transitions' Gaussian factors (PEARL, Eq. 3).

    `outputs` (n, k, 2 latent) holds each factor's mean and, before softplus, its variance.
    """
    means, variances = outputs.chunk(2, -1)
    precisions = 1 / F.softplus(variances).clamp(min=SMALLEST_VARIANCE)
    variance = 1 / precisions.sum(1)
    return variance * (precisions * means).sum(1), variance


def kl_to_standard_normal(mean: Tensor, variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, I)) summed over tasks and dimensions, as in PEARL's program."""
    return 0.5 * (variance + mean.square() - 1 - variance.log()).sum()
