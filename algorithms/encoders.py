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


def product_of_gaussians(outputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and variance (..., latent) of the product of the transitions' Gaussian factors (PEARL, Eq. 3).

    `outputs` (..., k, 2 latent) holds each factor's mean and, before softplus, its variance. Only those where `mask`
    (..., k) is true take part; of none the product is N(0, I).
    """
    means, variances = outputs.chunk(2, -1)
    precisions = 1 / F.softplus(variances).clamp(min=SMALLEST_VARIANCE)
    if mask is not None:
        precisions = precisions * mask[..., None]
    precision = precisions.sum(-2)
    if mask is not None:
        precision = torch.where(mask.any(-1, keepdim=True), precision, 1.0)
    return (precisions * means).sum(-2) / precision, 1 / precision


def kl_divergence(mean: Tensor, variance: Tensor, other_mean: Tensor, other_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(other_mean, other_variance)) summed over the last axis."""
    ratio = variance / other_variance
    return 0.5 * (ratio + (mean - other_mean).square() / other_variance - 1 - ratio.log()).sum(-1)


def kl_to_standard_normal(mean: Tensor, variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, I)) summed over tasks and dimensions, as in PEARL's program."""
    return 0.5 * (variance + mean.square() - 1 - variance.log()).sum()
