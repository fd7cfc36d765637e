"""Reference row: behaviour cloning given FOCAL's task embedding.

The encoder learns by FOCAL's metric loss alone (Eq. 13); the actor maximises the likelihood of the logged actions given
(s, z), z detached. What it earns needs no reward beyond the one in the context.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omrlbench.algorithms.algorithm import Algorithm, AlgorithmConfig, Context, MetaBatch, Policy, require
from omrlbench.algorithms.brac import LatentPolicy
from omrlbench.algorithms.encoders import mean_of_codes, transition_features, transitions
from omrlbench.algorithms.focal import metric_loss
from omrlbench.algorithms.networks import adam, mlp, squashed_log_density, step


@dataclass(frozen=True)
class BehaviorCloningConfig(AlgorithmConfig):
    latent_dim: int = 20  # this and the sizes below as FOCAL's
    encoder_width: int = 200
    width: int = 300
    learning_rate: float = 3e-4
    metric_beta: float = 1.0
    metric_epsilon: float = 0.1
    min_log_std: float = -5.0  # the likelihood of an action has no bound as its standard deviation shrinks
    max_log_std: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value >= 2, "at least 2, the metric loss compares tasks", "meta_batch")
        require(self, lambda value: value >= 1, "at least 1", "latent_dim", "encoder_width", "width")
        require(self, lambda value: value > 0, "above 0", "learning_rate", "metric_epsilon")
        require(self, lambda value: value >= 0, "at least 0", "metric_beta")
        require(self, lambda value: value < self.max_log_std, "below max_log_std", "min_log_std")


class BehaviorCloning(Algorithm):
    Config = BehaviorCloningConfig
    environment_values = {  # by trials on cheetah_vel, with expert and with mixed data
        "cheetah_vel": {"learning_rate": 1e-3},
        "cheetah_fwd_back": {"learning_rate": 3e-3},
    }

    def __init__(self, problem, config, seed, device="cpu"):
        super().__init__(problem, config, seed, device)
        c, s, a = config, problem.observation_dim, problem.action_dim
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = mlp(transition_features(s, a), (c.encoder_width,) * 3, c.latent_dim).to(self.device)
            self.actor = mlp(s + c.latent_dim, (c.width,) * 3, 2 * a).to(self.device)
        self.encoder_optimizer = adam(self.encoder, c.learning_rate)
        self.actor_optimizer = adam(self.actor, c.learning_rate)
        self.codes = torch.zeros(problem.n_train_tasks, c.latent_dim, device=self.device)  # the last of each task

    # ------------------------------------------------------------------ task inference

    def embed(self, *contexts: Context) -> Tensor:
        """z, the mean of tanh(encoder) over context transitions, contexts stacked along n: (n, latent)."""
        return mean_of_codes(self.encoder(transitions(*contexts)))

    # ------------------------------------------------------------------ behaviour cloning

    def cloning_loss(self, s: Tensor, a: Tensor, z: Tensor) -> Tensor:
        """Negative log-likelihood of the logged actions (..., action_dim)."""
        c = self.config
        mean, log_std = self.actor(torch.cat([s, z], -1)).chunk(2, -1)
        return -squashed_log_density(mean, log_std.clamp(c.min_log_std, c.max_log_std), a).mean()

    # ------------------------------------------------------------------ contract

    @property
    def bounded(self) -> bool:
        return True

    def update(self, batch: MetaBatch) -> dict[str, Tensor]:
        c = self.config
        first, second = self.embed(*batch.contexts).chunk(2)
        metric = metric_loss(first, second, beta=c.metric_beta, epsilon=c.metric_epsilon)
        self.codes[batch.tasks] = first.detach()
        z = first.detach()[:, None].expand(*batch.observations.shape[:2], -1)
        cloning = self.cloning_loss(batch.observations, batch.actions, z)
        step(metric + cloning, self.encoder_optimizer, self.actor_optimizer)
        return {"metric_loss": metric.detach(), "cloning_loss": cloning.detach()}

    @torch.no_grad()
    def adapt(self, context: Context) -> Policy:
        context.check_finite()
        return LatentPolicy(self.actor, self.embed(context))

    @torch.no_grad()
    def prior(self, n: int, generator: torch.Generator) -> Policy:
        """The policies of n random training tasks, given the last code of each."""
        tasks = torch.randint(len(self.codes), (n,), generator=generator, device=self.device)
        return LatentPolicy(self.actor, self.codes[tasks])

    def exported(self) -> dict[str, nn.Module | Tensor]:
        return {"encoder": self.encoder, "actor": self.actor, "codes": self.codes}
