"""SMAC (Pong et al., ICML 2022): a posterior over z from context, a reward decoder, AWAC, then interaction.

1. *offline*: encoder and decoder learn together: the decoder predicts the reward of (s, a) from z, and the posterior is
   kept near N(0, I). Critics do not reach the encoder. The actor imitates logged actions, those better than its own
   weighted up (advantage-weighted regression, Nair et al. 2020). `smac_offline` ends here.
2. *train*: encoder and decoder stay as they are. The policy collects in the training tasks without seeing a reward; the
   decoder labels what it collects, z inferred from a logged context of the task. Actor and critics learn from collected
   and logged transitions, given contexts of either kind; the actor's loss is that of phase 1 and SAC's.

Differences from the released program: weights are in units of this suite's rewards, sizes are those of the other
methods, tasks in a collection are distinct, collected and logged transitions have equal shares of a batch, and at test
time z is the posterior's mean and not a sample. Where the learner maximises another reward than contexts show
(`rl_reward`), that of contexts has a decoder of its own.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from omrlbench.algorithms.algorithm import LAST_STAGE, Context, InteractionConfig, MetaBatch, Policy, require
from omrlbench.algorithms.batch_pearl import BatchPearl, BatchPearlConfig
from omrlbench.algorithms.brac import ENVIRONMENT_VALUES, q_values
from omrlbench.algorithms.networks import adam, mlp, squashed_log_density
from omrlbench.algorithms.pearl import exploring_policy


@dataclass(frozen=True)
class SMACConfig(BatchPearlConfig):
    context_next_observations: bool = False  # whether the encoder sees s', where tasks differ in their dynamics
    kl_weight: float = 0.1  # beside the decoder's squared error of unscaled rewards; the released program
    decoder_width: int = 64  # two hidden layers
    advantage_temperature: float = 20.0  # SMAC: 100 beside rewards times 5
    entropy_temperature: float = 0.0
    regularization: Literal["none"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value > 0, "above 0", "advantage_temperature")
        require(self, lambda value: value >= 1, "at least 1", "decoder_width")


# at the released 0.1 and 20 z is not used, and mixed data are imitated, see the docs
BY_TRIALS = {"kl_weight": 1e-6, "advantage_temperature": 2.0}


class SMACOffline(BatchPearl):
    Config = SMACConfig
    revision = 1
    environment_values = dict.fromkeys(ENVIRONMENT_VALUES, BY_TRIALS) | dict.fromkeys(
        ("point_robot_wind", "walker_params"), BY_TRIALS | {"context_next_observations": True}
    )

    def __init__(self, problem, config, seed, device="cpu"):
        super().__init__(problem, config, seed, device)
        self.decoder = self.build_decoder(seed)
        self.decoder_optimizer = adam(self.decoder, config.learning_rate)

    # ------------------------------------------------------------------ task inference

    def build_decoder(self, seed: int) -> nn.Sequential:
        p, c = self.problem, self.config
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            features = p.observation_dim + p.action_dim + c.latent_dim
            return mlp(features, (c.decoder_width,) * 2, 1).to(self.device)

    @property
    def coupled(self) -> bool:
        return False

    @property
    def encoder_optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.encoder_optimizer, self.decoder_optimizer]

    def infer(self, batch: MetaBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """One sample of z per task, with the decoder's squared error and the weighted KL divergence."""
        z, divergence, metrics = super().infer(batch)
        error = (decoded_rewards(self.decoder, batch.observations, batch.actions, z) - batch.rewards).square().mean()
        return z, error + divergence, {"decoder_loss": error} | metrics

    # ------------------------------------------------------------------ actor

    def actor_loss(self, s: Tensor, a: Tensor, z: Tensor, alpha: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the log-density of the logged actions, weighted by a softmax over the batch of their advantages."""
        mean, log_std = self.heads(s, z)
        with torch.no_grad():
            a_pi, log_pi = self.sample_action(mean, log_std)
            value = q_values(self.critics, s, a_pi, z).amin(0)
            advantage = q_values(self.critics, s, a, z).amin(0) - value
            weights = (advantage / self.config.advantage_temperature).softmax(0)
        loss = -(weights * squashed_log_density(mean, log_std, a)).sum()
        return loss, {"q_value": value, "entropy": -log_pi, "advantage": advantage}


def decoded_rewards(decoder: nn.Module, s: Tensor, a: Tensor, z: Tensor) -> Tensor:
    """What `decoder` says of (n, b) transitions of n tasks given z (n, latent)."""
    return decoder(torch.cat([s, a, z[:, None].expand(-1, s.shape[1], -1)], -1)).squeeze(-1)


@dataclass(frozen=True)
class SMACOnlineConfig(SMACConfig, InteractionConfig):
    offline_steps: int = 50_000  # updates of the first phase
    initial_episodes: int = 1  # SMAC: none, the first collection is in a few tasks
    collection_interval: int = 4000
    posterior_episodes: int = 3
    extra_episodes: int = 0
    q_weight: float = 5.0  # of SAC's actor loss beside AWAC's; SMAC: 1 beside rewards times 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value >= 1, "at least 1", "offline_steps")
        require(self, lambda value: value >= 2, "at least 2, half of them logged", "batch_size")
        require(self, lambda value: value >= 0, "at least 0", "q_weight")


class SMAC(SMACOffline):
    Config = SMACOnlineConfig
    revision = 2
    experience = "logs and reward-free interaction"

    def __init__(self, problem, config, seed, device="cpu"):
        super().__init__(problem, config, seed, device)
        self.context_decoder = self.build_decoder(seed)
        self.context_decoder_optimizer = adam(self.context_decoder, config.learning_rate)

    # ------------------------------------------------------------------ task inference

    @property
    def encoder_optimizers(self) -> list[torch.optim.Optimizer]:
        """None in the second phase."""
        return [] if self.stage == LAST_STAGE else [*super().encoder_optimizers, self.context_decoder_optimizer]

    def infer(self, batch: MetaBatch) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
        """As offline, with the error of the contexts' decoder; in the second phase a posterior's sample alone.

        The second phase takes the collected or the logged context of each task, with equal chances.
        """
        if self.stage == LAST_STAGE:
            return self.sampled_code(batch.contexts), 0.0, {}
        z, loss, metrics = super().infer(batch)
        context = batch.contexts[1]
        decoded = decoded_rewards(self.context_decoder, context.observations, context.actions, z.detach())
        error = (decoded - context.rewards).square().mean()
        return z, loss + error, metrics | {"context_decoder_loss": error}

    @torch.no_grad()
    def sampled_code(self, contexts: tuple[Context, Context]) -> Tensor:
        collected, logged = (torch.stack(self.posterior(context)) for context in contexts)
        logs = torch.rand(collected.shape[1], 1, generator=self.generator, device=self.device) < 0.5
        mean, variance = torch.where(logs, logged, collected)
        noise = torch.randn(mean.shape, generator=self.generator, device=self.device)
        return mean + variance.sqrt() * noise

    # ------------------------------------------------------------------ interaction without rewards

    def explore(self, n: int, context: Context | None, generator: torch.Generator) -> Policy:
        return exploring_policy(self, n, context, generator)

    @torch.no_grad()
    def label(
        self, logged: Context, observations: Tensor, actions: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """What the decoders say given a sample of the posterior of each logged context."""
        mean, variance = self.posterior(logged)
        z = mean + variance.sqrt() * torch.randn(mean.shape, generator=generator, device=self.device)
        learners, own = (
            decoded_rewards(decoder, observations, actions, z) for decoder in (self.decoder, self.context_decoder)
        )
        return learners, own

    # ------------------------------------------------------------------ actor

    def actor_loss(self, s: Tensor, a: Tensor, z: Tensor, alpha: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """In the second phase minus the value of the policy's own actions too."""
        loss, parts = super().actor_loss(s, a, z, alpha)
        if self.stage == LAST_STAGE:
            a_pi, _ = self.sample_action(*self.heads(s, z))
            loss = loss - self.config.q_weight * q_values(self.critics, s, a_pi, z).amin(0).mean()
        return loss, parts

    # ------------------------------------------------------------------ contract

    @property
    def stages(self) -> dict[str, int]:
        return {"offline": self.config.offline_steps}
