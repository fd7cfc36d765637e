"""Batch-constrained Q-learning (BCQ; Fujimoto, Meger and Precup, ICML 2019) on the dataset of each evaluated task.

An autoencoder G imitates the data's actions, a perturbation moves them a little, and the critics choose among decoded
candidates. These are MBML's teachers (`bcq.py`, facts A.1), trained where they are evaluated.

Differences from the paper: those of `bcq.py`, which has the numbers of MBML's program, and two hidden layers of equal
width in place of 400 and 300 units (750 in the autoencoder).
"""

import copy

import torch
from torch import Tensor, nn

from omrlbench.algorithms.bcq import (
    CANDIDATES,
    ActionVAE,
    best_value,
    candidates,
    perturbation,
    perturbed,
    q_loss,
    twin_q,
)
from omrlbench.algorithms.networks import adam, frozen, step
from omrlbench.algorithms.single_task import SingleTask


class SingleTaskBCQ(SingleTask):
    def build(self, n, s, a):
        self.vae = ActionVAE(n, s, a, self.hidden).to(self.device)
        self.perturbation = perturbation(n, s, a, self.hidden).to(self.device)
        self.perturbation_target = copy.deepcopy(self.perturbation).requires_grad_(False)
        self.vae_optimizer = adam(self.vae, self.config.task_learning_rate)
        self.perturbation_optimizer = adam(self.perturbation, self.config.task_learning_rate)
        generator = torch.Generator().manual_seed(0)
        self.latents = torch.randn(CANDIDATES, self.vae.latent_dim, generator=generator).to(self.device)  # when acting

    # ------------------------------------------------------------------ losses, summed over tasks

    def vae_loss(self, s: Tensor, a: Tensor) -> Tensor:
        return self.vae.loss(s, a, self.noise(*s.shape[:2], self.vae.latent_dim))

    def critic_loss(self, s: Tensor, a: Tensor, r: Tensor, s_next: Tensor, terminated: Tensor) -> Tensor:
        """Both critics against r + gamma max over candidates of (0.75 min + 0.25 max) Q_target."""
        with torch.no_grad():
            value = best_value(self.critic_target, self.perturbation_target, self.vae, s_next, self.noise)
            backup = r + self.config.discount * (1 - terminated) * value
        return q_loss(twin_q(self.critics, s, a), backup)

    def perturbation_loss(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the first critic at perturbed decoded actions; and that value, (n, b)."""
        with torch.no_grad():
            decoded = self.vae.sample(s, self.noise(*s.shape[:2], self.vae.latent_dim))
        q = twin_q(self.critics, s, perturbed(self.perturbation, s, decoded))[0]
        return -q.mean(1).sum(), q

    # ------------------------------------------------------------------ contract

    def learn(self, s, a, r, s_next, terminated):
        vae_loss, critic_loss = self.vae_loss(s, a), self.critic_loss(s, a, r, s_next, terminated)
        step(vae_loss + critic_loss, self.vae_optimizer, self.critic_optimizer)
        with frozen(self.critics):
            perturbation_loss, q = self.perturbation_loss(s)
            step(perturbation_loss, self.perturbation_optimizer)
        self.follow(self.critic_target, self.critics)
        self.follow(self.perturbation_target, self.perturbation)
        losses = {"vae_loss": vae_loss, "critic_loss": critic_loss, "perturbation_loss": perturbation_loss}
        return {name: loss / len(s) for name, loss in losses.items()} | {"q_value": q.mean(), "q_value_max": q.max()}

    def act(self, observations):
        """Of the perturbed decoded candidates the one of the largest value; its latents are always the same."""
        rows = candidates(observations)
        decoded = self.vae.sample(rows, self.latents.repeat(*observations.shape[:2], 1))
        actions = perturbed(self.perturbation, rows, decoded)
        best = twin_q(self.critics, rows, actions)[0].unflatten(1, (-1, CANDIDATES)).argmax(-1)
        chosen = best[..., None, None].expand(-1, -1, 1, actions.shape[-1])
        return actions.unflatten(1, (-1, CANDIDATES)).gather(2, chosen).squeeze(2)

    def exported(self) -> dict[str, nn.Module | Tensor]:
        return {"critics": self.critics, "perturbation": self.perturbation, "decoder": self.vae.decoder}
