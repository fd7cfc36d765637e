"""FOCAL: fully-offline context-based actor-critic (Li, Yang and Luo, ICLR 2021).

A deterministic encoder maps context transitions to a latent z in (-1, 1)^l. A metric loss pulls contexts of one task
together and pushes tasks apart by an inverse power of their distance (Eq. 13). Actor and critic see (s, z) with z
detached, and a behaviour-regularised actor-critic (`brac.py`) learns from the logged data alone.

The paper's variants are fields: the power of the distance, a probabilistic encoder, the coupled gradients. Where the
paper is silent or its program differs, the choice is a field too; docs/algorithms/focal.md lists them all, and what the
preset `released-code` sets.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from omrlbench.algorithms.algorithm import Context, MetaBatch, require
from omrlbench.algorithms.brac import BRAC, BRACConfig
from omrlbench.algorithms.encoders import (
    kl_to_standard_normal,
    mean_of_codes,
    product_of_gaussians,
    transition_features,
    transitions,
)
from omrlbench.algorithms.networks import mlp

SMALLEST_SQUARE = 1e-8  # of a distance, whose root has no slope at 0


@dataclass(frozen=True)
class FocalConfig(BRACConfig):
    latent_dim: int = 20  # size l of the task embedding; Table 4: 5 or 20
    encoder_width: int = 200  # three hidden layers; Table 4
    context_next_observations: bool = True  # whether the encoder sees s'

    # task inference (Section 4.1 and 4.2)
    metric_form: Literal["paper", "released"] = "paper"
    metric_power: Literal[-2, -1, 1, 2] = -2  # of the distance in the repulsion; Table 5b
    metric_beta: float = 1.0  # weight of the repulsion in Eq. 13
    metric_epsilon: float = 0.1  # keeps the repulsion by a negative power finite; Table 5b
    metric_attraction: bool = True  # whether contexts of one task attract each other
    metric_weight: float = 1.0  # weight of the whole metric loss
    encoder: Literal["deterministic", "gaussian"] = "deterministic"
    kl_weight: float = 0.1  # of the posterior's divergence from N(0, I), gaussian only; PEARL
    coupled_gradients: bool = False  # whether the critics' loss reaches the encoder; Fig. 5 and 9

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value >= 2, "at least 2, the metric loss compares tasks", "meta_batch")
        require(self, lambda value: value >= 1, "at least 1", "latent_dim", "encoder_width")
        require(self, lambda value: value >= 0, "at least 0", "metric_beta", "metric_weight", "kl_weight")
        require(self, lambda value: value > 0, "above 0", "metric_epsilon")


class Focal(BRAC):
    Config = FocalConfig
    presets = {
        "released-code": {
            "latent_dim": 20,
            "encoder_width": 200,
            "width": 256,
            "discriminator_learning_rate": 1e-4,
            "reward_scale": 5.0,
            "entropy_temperature": 1.0,
            "initialization": "rlkit",
            "max_log_std": 0.0,
            "head_penalty": 1e-3,
            "context_next_observations": False,
            "metric_form": "released",
            "metric_weight": 10.0,
            "regularization": "policy",
            "alpha": 500.0,
            "alpha_mode": "released",
            "alpha_max": 2000.0,
            "alpha_step": 1.0,
            "discriminator_penalty": "output",
            "discriminator_penalty_weight": 5.0,
            "learning_rate_decay": "none",
            "critic_target": "value_network",
            "value_penalty_at": "state",
            "environments": {
                "sparse_point_robot": {"reward_scale": 100.0, "regularization": "none"},
                "point_robot": {"reward_scale": 100.0, "regularization": "none"},
                "point_robot_wind": {"reward_scale": 100.0, "regularization": "none"},
                "cheetah_vel": {"alpha": 50.0},
                "cheetah_fwd_back": {"regularization": "both"},
                "ant_fwd_back": {"regularization": "both", "alpha": 1e6, "alpha_max": 5e6},
                "walker_params": {"alpha": 50.0, "alpha_max": 1e4, "context_next_observations": True},
            },
        }
    }

    @property
    def latent_dim(self) -> int:
        return self.config.latent_dim

    @property
    def coupled(self) -> bool:
        return self.config.coupled_gradients

    @property
    def bounded(self) -> bool:
        return self.config.encoder == "deterministic"

    # ------------------------------------------------------------------ task inference

    def build_encoder(self):
        c, p = self.config, self.problem
        features = transition_features(p.observation_dim, p.action_dim, c.context_next_observations)
        return mlp(features, (c.encoder_width,) * 3, c.latent_dim * (2 if c.encoder == "gaussian" else 1))

    def encode(self, *contexts: Context) -> Tensor:
        """What the encoder says of each transition, contexts stacked along n: (n, k, latent or 2 latent)."""
        return self.encoder(transitions(*contexts, next_observations=self.config.context_next_observations))

    def embed(self, context: Context) -> Tensor:
        """z, the mean of tanh(encoder) over context transitions, or the posterior's mean: (n, latent)."""
        outputs = self.encode(context)
        return product_of_gaussians(outputs)[0] if self.config.encoder == "gaussian" else mean_of_codes(outputs)

    def infer(self, batch: MetaBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The embeddings of the first context draw, with the metric loss."""
        c = self.config
        if c.encoder == "gaussian":
            mean, variance = product_of_gaussians(self.encode(*batch.contexts))
            noise = torch.randn(mean.shape, generator=self.generator, device=self.device)
            codes = mean + variance.sqrt() * noise
            kl = kl_to_standard_normal(mean, variance) / len(batch.contexts)
        else:
            codes, kl = mean_of_codes(self.encode(*batch.contexts)), None
        first, second = codes.chunk(2)
        if c.metric_form == "released":
            metric = released_metric_loss(first, torch.arange(len(first)))
        else:
            metric = metric_loss(first, second, c.metric_power, c.metric_beta, c.metric_epsilon, c.metric_attraction)
        loss, metrics = c.metric_weight * metric, {"metric_loss": metric}
        if kl is not None:
            loss, metrics = loss + c.kl_weight * kl, metrics | {"kl_loss": kl}
        return first, loss, metrics


def metric_loss(
    first: Tensor, second: Tensor, power: int = -2, beta: float = 1.0, epsilon: float = 0.1, attraction: bool = True
) -> Tensor:
    """Eq. 13 over all ordered pairs of tasks, two independent context draws each, (n, latent) both.

    d^2 is the mean over latent dimensions of the squared difference. Attraction averages d^2 over the n pairs (i, i),
    repulsion its term over the n (n - 1) pairs of different tasks: beta / (d^n + epsilon) for the power -n, -beta d^n
    for the power n.
    """
    d2 = (first[:, None] - second[None]).square().mean(-1)
    same = torch.eye(len(first), dtype=torch.bool, device=first.device)
    apart = d2[~same]
    distance = apart if abs(power) == 2 else apart.clamp(min=SMALLEST_SQUARE).sqrt()
    repulsion = (beta / (distance + epsilon)).mean() if power < 0 else -beta * distance.mean()
    return d2[same].mean() + repulsion if attraction else repulsion


def released_metric_loss(z: Tensor, task_ids: Tensor) -> Tensor:
    """What the authors' program computes (before its weight of 10): unordered pairs i < j of one draw.

    Attraction is sqrt(d^2 + 1e-3) between repeated tasks, so it is absent while the tasks of a batch are distinct;
    repulsion is 1 / (d^2 + 0.1).
    """
    i, j = torch.triu_indices(len(z), len(z), offset=1)
    d2 = (z[i] - z[j]).square().mean(-1)
    same = task_ids[i] == task_ids[j]
    attraction = (d2[same] + 1e-3).sqrt().sum() / (same.sum() + 1e-3)
    repulsion = (1 / (d2[~same] + 0.1)).sum() / ((~same).sum() + 1e-3)
    return attraction + repulsion
