"""PEARL (Rakelly et al., ICML 2019): meta-trained by its own interaction with the training tasks.

A probabilistic encoder infers a Gaussian posterior over z, a product of one factor per context transition. It is
trained by the critics' loss (the Bellman error) and by the posterior's divergence from N(0, I); soft actor-critic
learns given z. Transitions are collected by stochastic policies, with z from the prior and from the posterior; contexts
are of the latest collection in a task, the actor-critic learns from all. At test z is a sample of the posterior, and
actions are the policy's means.

Differences from PEARL's program, see docs/algorithms/pearl.md: target critics take the place of the value network,
tasks in a meta-batch and in a collection are distinct, rewards stay as they are and the weights beside them are divided
by what the program multiplies rewards with, and the posterior is inferred from `context_size` draws.
"""

from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor

from omrlbench.algorithms.algorithm import Context, InteractionConfig, Policy
from omrlbench.algorithms.batch_pearl import BatchPearl, BatchPearlConfig
from omrlbench.algorithms.brac import BRAC
from omrlbench.algorithms.networks import squash


@dataclass(frozen=True)
class PearlConfig(BatchPearlConfig, InteractionConfig):
    context_next_observations: bool = False  # whether the encoder sees s', where tasks differ in their dynamics
    head_penalty: float = 2e-4  # PEARL: 1e-3 beside rewards times 5
    entropy_temperature: float = 0.2  # PEARL: 1 beside rewards times 5


POINT_ROBOT = {
    "kl_weight": 1e-4,  # PEARL: beside rewards times 100 it is 1 on the sparse one, 0.1 on the dense one
    "entropy_temperature": 0.01,
    "head_penalty": 1e-5,
    "learning_rate": 1e-3,  # PEARL: 3e-4, for many times the updates of the cpu budget
    "collection_interval": 1000,
}
SPARSE_POINT_ROBOT = POINT_ROBOT | {
    "collection_tasks": 10,
    "prior_episodes": 5,
    "posterior_episodes": 45,
    "extra_episodes": 0,
}
DENSE_POINT_ROBOT = POINT_ROBOT | {"prior_episodes": 10, "extra_episodes": 10}


class Pearl(BatchPearl):
    Config = PearlConfig
    revision = 2
    experience = "interaction"
    environment_values = {
        "sparse_point_robot": SPARSE_POINT_ROBOT,
        "point_robot": DENSE_POINT_ROBOT,
        "point_robot_wind": DENSE_POINT_ROBOT | {"context_next_observations": True},
        "cheetah_vel": {"learning_rate": 1e-3},  # this and the next by trials, see the docs
        "walker_params": {"context_next_observations": True, "learning_rate": 3e-3},
    }

    # ------------------------------------------------------------------ task inference

    def explore(self, n: int, context: Context | None, generator: torch.Generator) -> Policy:
        return exploring_policy(self, n, context, generator)

    # ------------------------------------------------------------------ contract

    @torch.no_grad()
    def adapt(self, context: Context) -> Policy:
        context.check_finite()
        mean, variance = self.posterior(context)
        return self.policy(mean + variance.sqrt() * context_noise(context, self.latent_dim))


def context_noise(context: Context, size: int) -> Tensor:
    """Standard normal (n, size) that derives, for each task, from the actions in its context, whatever their order.

    So a policy is one sample of the posterior, another one for another context, and the same for the same.
    """
    rows = context.actions.flatten(1).sort(1).values.cpu().numpy()
    generators = [torch.Generator().manual_seed(crc32(row.tobytes())) for row in rows]
    return torch.stack([torch.randn(size, generator=g) for g in generators]).to(context.actions.device)


@torch.no_grad()
def exploring_policy(learner: BatchPearl, n: int, context: Context | None, generator: torch.Generator) -> Policy:
    """Stochastic actions given z from the posterior of each of n contexts, or of N(0, I) without."""
    z = torch.randn(n, learner.latent_dim, generator=generator, device=learner.device)
    if context is not None:
        mean, variance = learner.posterior(context)
        z = mean + variance.sqrt() * z
    return SampledPolicy(learner, z, generator)


class SampledPolicy(Policy):
    """The actor's actions given z (n, latent), with noise from `generator`."""

    def __init__(self, learner: BRAC, z: Tensor, generator: torch.Generator):
        self.learner, self.z, self.generator = learner, z, generator

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        mean, log_std = self.learner.heads(observations, self.z)
        noise = torch.randn(mean.shape, generator=self.generator, device=mean.device)
        return squash(mean, log_std, noise)[0]
