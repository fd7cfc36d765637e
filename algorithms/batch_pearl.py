"""Batch PEARL: PEARL (Rakelly et al., ICML 2019) on logged data alone, as FOCAL compares with it.

A probabilistic encoder infers a Gaussian posterior over z, a product of one factor per context transition. It is
trained by the critics' loss (the Bellman error) and by the posterior's divergence from N(0, I). Actor and critics are
those of FOCAL (`brac.py`) without regularisation, as in PEARL; `batch_pearl_brac` adds FOCAL's.

Differences from PEARL's program: contexts are i.i.d. draws from the logged data, target critics take the place of the
value network, tasks in a meta-batch are distinct, and at test time z is the posterior's mean and not a sample.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from omrlbench.algorithms.algorithm import Context, MetaBatch, require
from omrlbench.algorithms.brac import BRAC, ENVIRONMENT_VALUES, BRACConfig
from omrlbench.algorithms.encoders import kl_to_standard_normal, product_of_gaussians, transition_features, transitions
from omrlbench.algorithms.networks import mlp


@dataclass(frozen=True)
class BatchPearlConfig(BRACConfig):
    latent_dim: int = 20  # as FOCAL's; PEARL: 5
    encoder_width: int = 200  # three hidden layers; PEARL
    context_next_observations: bool = True  # whether the encoder sees s'
    kl_weight: float = 0.004  # of the posterior's divergence from N(0, I), summed over tasks and dimensions; PEARL's
    # 0.1 stands beside rewards times 5, whose squared errors weigh 25 times as much
    regularization: Literal["value_penalty", "policy", "both", "none"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value >= 1, "at least 1", "latent_dim", "encoder_width")
        require(self, lambda value: value >= 0, "at least 0", "kl_weight")


# by trials on cheetah_vel and sparse_point_robot: at PEARL's ratio, ten times these, tasks come too near to each other
LIGHT_PRIOR = {"kl_weight": 4e-4}
ON_POINT_ROBOTS = {"kl_weight": 1e-5}  # PEARL: 1, beside rewards times 100
PRIORS = dict.fromkeys(("sparse_point_robot", "point_robot", "point_robot_wind"), ON_POINT_ROBOTS)
PRIORS |= dict.fromkeys(("cheetah_vel", "cheetah_fwd_back", "ant_fwd_back"), LIGHT_PRIOR)
REGULARIZED_VALUES = {env: values | PRIORS.get(env, {}) for env, values in ENVIRONMENT_VALUES.items()}
UNREGULARIZED = {env: values | {"regularization": "none"} for env, values in REGULARIZED_VALUES.items()}
UNREGULARIZED["walker_params"] |= {"learning_rate": 3e-4}  # at 1e-3 Q-values explode


class BatchPearl(BRAC):
    Config = BatchPearlConfig
    revision = 2
    environment_values = UNREGULARIZED

    @property
    def latent_dim(self) -> int:
        return self.config.latent_dim

    @property
    def coupled(self) -> bool:
        return True

    # ------------------------------------------------------------------ task inference

    def build_encoder(self):
        c, p = self.config, self.problem
        features = transition_features(p.observation_dim, p.action_dim, c.context_next_observations)
        return mlp(features, (c.encoder_width,) * 3, 2 * c.latent_dim)

    def posterior(self, context: Context) -> tuple[Tensor, Tensor]:
        """Mean and variance of z given the context, (n, latent) both."""
        return product_of_gaussians(
            self.encoder(transitions(context, next_observations=self.config.context_next_observations))
        )

    def embed(self, context: Context) -> Tensor:
        """The posterior's mean, (n, latent)."""
        return self.posterior(context)[0]

    def infer(self, batch: MetaBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """One sample of z per task, with the weighted KL divergence."""
        mean, variance = self.posterior(batch.contexts[0])
        noise = torch.randn(mean.shape, generator=self.generator, device=self.device)
        kl = kl_to_standard_normal(mean, variance)
        return mean + variance.sqrt() * noise, self.config.kl_weight * kl, {"kl_loss": kl}

    @torch.no_grad()
    def prior(self, n: int, generator: torch.Generator):
        """Policies given z drawn from N(0, I)."""
        return self.policy(torch.randn(n, self.latent_dim, generator=generator, device=self.device))


@dataclass(frozen=True)
class BatchPearlBRACConfig(BatchPearlConfig):
    regularization: Literal["value_penalty", "policy", "both", "none"] = "both"


class BatchPearlBRAC(BatchPearl):
    """Batch PEARL with FOCAL's behaviour regularisation, as in the paper's Figure 4b."""

    Config = BatchPearlBRACConfig
    environment_values = REGULARIZED_VALUES
