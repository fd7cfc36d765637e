"""Contextual BCQ: batch-constrained Q-learning given an inferred task embedding (Li et al. 2020, as MBML's baseline).

The encoder, a product of Gaussians over context transitions, learns from the autoencoder's and the critics' losses and
from nothing else: there is no divergence from a prior. Actor and critics are BCQ's (`bcq.py`) with z beside the state.

Differences from the released program (facts B): three hidden layers per network in place of seven to nine of 1024,
sampled meta-batches in place of all tasks at every step, and at test time z is the posterior's mean, inferred once from
a logged context.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omrlbench.algorithms.algorithm import Algorithm, AlgorithmConfig, Context, MetaBatch, Policy, require
from omrlbench.algorithms.bcq import (
    KL_WEIGHT,
    ActionVAE,
    CandidatePolicy,
    best_value,
    perturbation,
    perturbed,
    q_loss,
    twin_q,
)
from omrlbench.algorithms.encoders import product_of_gaussians, transition_features, transitions
from omrlbench.algorithms.networks import adam, ensemble_mlp, frozen, mlp, polyak_update, step


@dataclass(frozen=True)
class ContextualBCQConfig(AlgorithmConfig):
    latent_dim: int = 20
    encoder_width: int = 200  # three hidden layers
    width: int = 300  # three hidden layers of autoencoder, perturbation and critics
    autoencoder_kl_weight: float = KL_WEIGHT  # beside the mean squared error of actions
    learning_rate: float = 3e-4
    discount: float = 0.99
    target_rate: float = 0.005

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value >= 1, "at least 1", "latent_dim", "encoder_width", "width")
        require(self, lambda value: value > 0, "above 0", "learning_rate")
        require(self, lambda value: value >= 0, "at least 0", "autoencoder_kl_weight")
        require(self, lambda value: 0 <= value <= 1, "between 0 and 1", "discount", "target_rate")


class ContextualBCQ(Algorithm):
    Config = ContextualBCQConfig
    environment_values = {"cheetah_fwd_back": {"learning_rate": 1e-3}}  # by trials on cheetah_vel with mixed data

    def __init__(self, problem, config, seed, device="cpu"):
        super().__init__(problem, config, seed, device)
        c, s, a = config, problem.observation_dim, problem.action_dim
        features, hidden = s + c.latent_dim, (c.width,) * 3
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = mlp(transition_features(s, a), (c.encoder_width,) * 3, 2 * c.latent_dim).to(self.device)
            self.vae = ActionVAE(1, features, a, hidden, c.autoencoder_kl_weight).to(self.device)
            self.critics = ensemble_mlp(2, features + a, hidden, 1).to(self.device)
            self.perturbation = perturbation(1, features, a, hidden).to(self.device)
        self.critic_target = copy.deepcopy(self.critics).requires_grad_(False)
        self.perturbation_target = copy.deepcopy(self.perturbation).requires_grad_(False)
        self.encoder_optimizer = adam(self.encoder, c.learning_rate)
        self.vae_optimizer = adam(self.vae, c.learning_rate)
        self.critic_optimizer = adam(self.critics, c.learning_rate)
        self.perturbation_optimizer = adam(self.perturbation, c.learning_rate)

    # ------------------------------------------------------------------ task inference

    def posterior(self, context: Context) -> tuple[Tensor, Tensor]:
        """Mean and variance of z given the context, (n, latent) both."""
        return product_of_gaussians(self.encoder(transitions(context)))

    def embed(self, context: Context) -> Tensor:
        """The posterior's mean, (n, latent)."""
        return self.posterior(context)[0]

    def infer(self, batch: MetaBatch) -> Tensor:
        """One sample of z per task, (n, latent)."""
        mean, variance = self.posterior(batch.contexts[0])
        return mean + variance.sqrt() * self.noise(*mean.shape)

    # ------------------------------------------------------------------ batch-constrained actor-critic

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def vae_loss(self, features: Tensor, a: Tensor) -> Tensor:
        return self.vae.loss(features, a, self.noise(1, a.shape[1], self.vae.latent_dim))

    def critic_loss(self, features: Tensor, a: Tensor, r: Tensor, next_features: Tensor, terminated: Tensor) -> Tensor:
        """Both critics against r + gamma max over candidates of (0.75 min + 0.25 max) Q_target; (1, batch, ...)."""
        with torch.no_grad():
            value = best_value(self.critic_target, self.perturbation_target, self.vae, next_features, self.noise)
            backup = r + self.config.discount * (1 - terminated) * value
        return q_loss(twin_q(self.critics, features, a), backup)

    def perturbation_loss(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the first critic at perturbed decoded actions; and that value."""
        with torch.no_grad():
            decoded = self.vae.sample(features, self.noise(1, features.shape[1], self.vae.latent_dim))
        q = twin_q(self.critics, features, perturbed(self.perturbation, features, decoded))[0]
        return -q.mean(), q.detach()

    # ------------------------------------------------------------------ contract

    def update(self, batch: MetaBatch) -> dict[str, Tensor]:
        c = self.config
        n, size = batch.rewards.shape
        z = self.infer(batch).repeat_interleave(size, 0)[None]
        s, a, s_next = (
            x.reshape(1, n * size, -1) for x in (batch.observations, batch.actions, batch.next_observations)
        )
        r, terminated = batch.rewards.reshape(1, -1), batch.terminated.reshape(1, -1)
        features = torch.cat([s, z], -1)
        vae_loss = self.vae_loss(features, a)
        critic_loss = self.critic_loss(features, a, r, torch.cat([s_next, z.detach()], -1), terminated)
        step(vae_loss + critic_loss, self.vae_optimizer, self.critic_optimizer, self.encoder_optimizer)
        with frozen(self.critics):
            perturbation_loss, q = self.perturbation_loss(features.detach())
            step(perturbation_loss, self.perturbation_optimizer)
        polyak_update(self.critic_target, self.critics, c.target_rate)
        polyak_update(self.perturbation_target, self.perturbation, c.target_rate)
        losses = {"vae_loss": vae_loss, "critic_loss": critic_loss, "perturbation_loss": perturbation_loss}
        return {name: loss.detach() for name, loss in losses.items()} | {"q_value": q.mean(), "q_value_max": q.max()}

    @torch.no_grad()
    def adapt(self, context: Context) -> Policy:
        context.check_finite()
        return self.policy(self.embed(context))

    def policy(self, z: Tensor) -> Policy:
        return CandidatePolicy(self.vae, self.perturbation, lambda *inputs: twin_q(self.critics, *inputs)[0], z)

    @torch.no_grad()
    def prior(self, n: int, generator: torch.Generator) -> Policy:
        """Policies given z drawn from N(0, I)."""
        return self.policy(torch.randn(n, self.config.latent_dim, generator=generator, device=self.device))

    def exported(self) -> dict[str, nn.Module]:
        networks = {"critics": self.critics, "perturbation": self.perturbation}
        return {"encoder": self.encoder, "decoder": self.vae.decoder} | networks
