"""SMAC's offline phase (Pong et al., ICML 2022): a posterior over z from context, a reward decoder, and AWAC.

Encoder and decoder learn together: the decoder predicts the reward of (s, a) from z, and the posterior is kept near
N(0, I). Critics do not reach the encoder. The actor imitates logged actions, those better than its own weighted up
(advantage-weighted regression, Nair et al. 2020). The decoder stays for the online phase, in which it labels
transitions that come without a reward.

Differences from the released program: `advantage_temperature` is in units of this suite's rewards, sizes are those of
the other methods, and at test time z is the posterior's mean and not a sample.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from omrlbench.algorithms.algorithm import MetaBatch, require
from omrlbench.algorithms.batch_pearl import BatchPearl, BatchPearlConfig
from omrlbench.algorithms.brac import q_values
from omrlbench.algorithms.networks import adam, mlp, squashed_log_density


@dataclass(frozen=True)
class SMACConfig(BatchPearlConfig):
    context_next_observations: bool = False  # the encoder sees (s, a, r)
    kl_weight: float = 0.1  # beside the decoder's squared error of unscaled rewards
    decoder_width: int = 64  # two hidden layers
    advantage_temperature: float = 20.0  # SMAC: 100 beside rewards times 5
    entropy_temperature: float = 0.0
    regularization: Literal["none"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value > 0, "above 0", "advantage_temperature")
        require(self, lambda value: value >= 1, "at least 1", "decoder_width")


class SMACOffline(BatchPearl):
    Config = SMACConfig
    revision = 1
    environment_values = {}

    def __init__(self, problem, config, seed, device="cpu"):
        super().__init__(problem, config, seed, device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            features = problem.observation_dim + problem.action_dim + config.latent_dim
            self.decoder = mlp(features, (config.decoder_width,) * 2, 1).to(self.device)
        self.decoder_optimizer = adam(self.decoder, config.learning_rate)

    # ------------------------------------------------------------------ task inference

    @property
    def coupled(self) -> bool:
        return False

    @property
    def encoder_optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.encoder_optimizer, self.decoder_optimizer]

    def infer(self, batch: MetaBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """One sample of z per task, with the decoder's squared error and the weighted KL divergence."""
        z, divergence, metrics = super().infer(batch)
        error = (self.decoded_rewards(batch.observations, batch.actions, z) - batch.rewards).square().mean()
        return z, error + divergence, {"decoder_loss": error} | metrics

    def decoded_rewards(self, s: Tensor, a: Tensor, z: Tensor) -> Tensor:
        """What the decoder says of (n, b) transitions of n tasks given z (n, latent)."""
        return self.decoder(torch.cat([s, a, z[:, None].expand(-1, s.shape[1], -1)], -1)).squeeze(-1)

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
