"""FOCAL: fully-offline context-based actor-critic (Li, Yang and Luo, ICLR 2021).

A deterministic encoder maps context transitions to a latent z in (-1, 1)^l. A metric loss pulls contexts of one task
together and pushes tasks apart by an inverse power of their distance (Eq. 13). Actor and critic see (s, z) with z
detached, and a behaviour-regularised actor-critic (BRAC, Eq. 6-9) learns from the logged data alone.

Where the paper is silent or its program differs, the choice is a field of `FocalConfig`; docs/algorithms/focal.md
lists them all, and what the preset `released-code` sets.
"""

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omrlbench.algorithms.algorithm import Algorithm, AlgorithmConfig, Context, MetaBatch, Policy
from omrlbench.algorithms.networks import (
    ensemble_mlp,
    initialize_like_rlkit,
    mlp,
    polyak_update,
    squash,
)

MIN_LOG_STD = -20.0


@dataclass(frozen=True)
class FocalConfig(AlgorithmConfig):
    latent_dim: int = 20  # size l of the task embedding; Table 4: 5 or 20
    encoder_width: int = 200  # three hidden layers; Table 4
    width: int = 300  # three hidden layers of actor, critics and discriminator; Table 4
    learning_rate: float = 3e-4  # encoder, actor, critics
    discriminator_learning_rate: float = 1e-4
    discount: float = 0.99
    target_rate: float = 0.005  # Polyak rate of the target critics
    reward_scale: float = 1.0  # the learner's rewards are multiplied by this
    entropy_temperature: float = 0.01  # weight of the entropy bonus, in units of scaled reward
    initialization: Literal["torch", "rlkit"] = "torch"
    max_log_std: float = 2.0
    head_penalty: float = 0.0  # weight of the squared mean and log-std that the actor puts out

    # task inference (Section 4.1 and 4.2)
    context_next_observations: bool = True  # whether the encoder sees s'
    metric_form: Literal["paper", "released"] = "paper"
    metric_beta: float = 1.0  # weight of the repulsion in Eq. 13
    metric_epsilon: float = 0.1  # keeps the repulsion finite; Table 5b
    metric_weight: float = 1.0  # weight of the whole metric loss

    # behaviour regularisation (Section 3.2, Appendix E.2)
    regularization: Literal["value_penalty", "policy", "both", "none"] = "both"
    alpha: float = 1.0  # weight of the divergence; the starting value if adaptive
    alpha_mode: Literal["fixed", "adaptive", "released"] = "fixed"
    alpha_max: float = 100.0
    alpha_step: float = 0.01  # adaptive: alpha += alpha_step * (divergence - divergence_target)
    divergence_target: float = 0.05
    discriminator_steps: int = 3  # discriminator updates per update of the rest, each on transitions of its own
    discriminator_penalty: Literal["gradient", "output"] = "gradient"
    discriminator_penalty_weight: float = 5.0

    # critic target (Eq. 27)
    critic_target: Literal["twin_q", "value_network"] = "twin_q"
    value_penalty_at: Literal["next_state", "state"] = "next_state"


class Focal(Algorithm):
    Config = FocalConfig
    presets = {
        "released-code": {
            "latent_dim": 20,
            "width": 256,
            "initialization": "rlkit",
            "max_log_std": 0.0,
            "head_penalty": 1e-3,
            "entropy_temperature": 1.0,
            "context_next_observations": False,
            "metric_form": "released",
            "metric_weight": 10.0,
            "alpha_mode": "released",
            "alpha_step": 1.0,
            "discriminator_penalty": "output",
            "critic_target": "value_network",
            "value_penalty_at": "state",
        }
    }

    def __init__(self, problem, config, seed, device="cpu"):
        super().__init__(problem, config, seed, device)
        c, s, a = config, problem.observation_dim, problem.action_dim
        context_dim = s + a + 1 + (s if c.context_next_observations else 0)
        hidden = (c.width,) * 3
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = mlp(context_dim, (c.encoder_width,) * 3, c.latent_dim)
            self.actor = mlp(s + c.latent_dim, hidden, 2 * a)
            self.critics = ensemble_mlp(2, s + a + c.latent_dim, hidden, 1)
            self.discriminator = mlp(s + a + c.latent_dim, hidden, 1)
            self.value = mlp(s + c.latent_dim, hidden, 1)
            if c.initialization == "rlkit":
                for network in (self.encoder, self.critics, self.discriminator, self.value):
                    initialize_like_rlkit(network, last=3e-3)
                initialize_like_rlkit(self.actor, last=1e-3)
        for network in (self.encoder, self.actor, self.critics, self.discriminator, self.value):
            network.to(self.device)
        self.target = copy.deepcopy(self.critics if c.critic_target == "twin_q" else self.value).requires_grad_(False)
        self.encoder_optimizer = self._adam(self.encoder, c.learning_rate)
        self.actor_optimizer = self._adam(self.actor, c.learning_rate)
        self.critic_optimizer = self._adam(self.critics, c.learning_rate)
        self.value_optimizer = self._adam(self.value, c.learning_rate)
        self.discriminator_optimizer = self._adam(self.discriminator, c.discriminator_learning_rate)
        self.alpha = torch.tensor(c.alpha, device=self.device)

    def _adam(self, network: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)

    # ------------------------------------------------------------------ task inference

    def embed(self, context: Context) -> Tensor:
        """z = mean over context transitions of tanh(encoder), (n, latent_dim)."""
        parts = [context.observations, context.actions, context.rewards[..., None]]
        if self.config.context_next_observations:
            parts.append(context.next_observations)
        return self.encoder(torch.cat(parts, -1)).tanh().mean(1)

    def metric_loss(self, contexts: tuple[Context, Context]) -> tuple[Tensor, Tensor]:
        """The metric loss, and the embeddings of the first draw."""
        c = self.config
        z = self.embed(contexts[0])
        if c.metric_form == "released":
            return released_metric_loss(z, torch.arange(len(z))), z
        return metric_loss(z, self.embed(contexts[1]), c.metric_beta, c.metric_epsilon), z

    # ------------------------------------------------------------------ behaviour regularisation

    def update_discriminator(self, s: Tensor, a: Tensor, z: Tensor) -> Tensor:
        with torch.no_grad():
            a_pi, _ = self.sample_action(s, z)
        loss = -dual_kl(self.discriminator, s, a_pi, a, z).mean()
        mix = torch.rand(a.shape[:-1], generator=self.generator, device=self.device)[..., None]
        a_mix = a_pi + mix * (a - a_pi)
        penalty = gradient_penalty if self.config.discriminator_penalty == "gradient" else output_penalty
        loss = loss + self.config.discriminator_penalty_weight * penalty(self.discriminator, s, a_mix, z)
        _step(self.discriminator_optimizer, loss)
        return loss.detach()

    def divergence(self, s: Tensor, a_pi: Tensor, a_data: Tensor | None, z: Tensor) -> Tensor:
        """D at policy actions, the last axis summed away.

        With data actions, the dual form of the KL divergence. Without, its part that depends on the policy,
        log g(s, a_pi, z): at the optimal discriminator g is the density ratio, and the rest is zero on average.
        """
        if a_data is None:
            return F.softplus(self.discriminator(torch.cat([s, a_pi, z], -1))).log().squeeze(-1)
        return dual_kl(self.discriminator, s, a_pi, a_data, z)

    def update_alpha(self, divergence: Tensor) -> None:
        c = self.config
        if c.alpha_mode == "fixed":
            return
        self.alpha += c.alpha_step * (divergence - c.divergence_target)
        if c.alpha_mode == "adaptive":  # the released program lets the variable wind up and clips its use only
            self.alpha.clamp_(0.0, c.alpha_max)

    # ------------------------------------------------------------------ actor-critic

    def sample_action(self, s: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.act_from(self.actor(torch.cat([s, z], -1)))

    def act_from(self, heads: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = heads.chunk(2, -1)
        noise = torch.randn(mean.shape, generator=self.generator, device=self.device)
        return squash(mean, log_std.clamp(MIN_LOG_STD, self.config.max_log_std), noise)

    def critic_loss(self, s, a, r, s_next, terminated, z, alpha: Tensor) -> Tensor:
        """Eq. 27 with the twin minimum and the entropy bonus of SAC."""
        c = self.config
        with torch.no_grad():
            a_next, log_pi = self.sample_action(s_next, z)
            if c.critic_target == "twin_q":
                value = q_values(self.target, s_next, a_next, z).amin(0) - c.entropy_temperature * log_pi
            else:
                value = self.target(torch.cat([s_next, z], -1)).squeeze(-1)
            if c.regularization in ("value_penalty", "both"):
                if c.value_penalty_at == "next_state":
                    value = value - alpha * self.divergence(s_next, a_next, None, z)
                else:
                    value = value - alpha * self.divergence(s, self.sample_action(s, z)[0], a, z)
            backup = c.reward_scale * r + c.discount * (1 - terminated) * value
        return (q_values(self.critics, s, a, z) - backup).square().mean(-1).sum()

    def actor_loss(self, s, a, z, alpha: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 28 with the entropy bonus of SAC."""
        c = self.config
        heads = self.actor(torch.cat([s, z], -1))
        a_pi, log_pi = self.act_from(heads)
        q = q_values(self.critics, s, a_pi, z).amin(0)
        divergence = self.divergence(s, a_pi, a, z)
        loss = (c.entropy_temperature * log_pi - q).mean()
        if c.regularization in ("policy", "both"):
            loss = loss + alpha * divergence.mean()
        if c.head_penalty:
            mean, log_std = heads.chunk(2, -1)
            log_std = log_std.clamp(MIN_LOG_STD, c.max_log_std)
            loss = loss + c.head_penalty * (mean.square().mean() + log_std.square().mean())
        metrics = {"q": q.mean(), "entropy": -log_pi.mean(), "divergence": divergence.mean()}
        if c.critic_target == "value_network":
            metrics["value_loss"] = self.update_value(s, z, (q - c.entropy_temperature * log_pi).detach())
        return loss, metrics

    def update_value(self, s: Tensor, z: Tensor, target: Tensor) -> Tensor:
        loss = F.mse_loss(self.value(torch.cat([s, z], -1)).squeeze(-1), target)
        _step(self.value_optimizer, loss)
        return loss.detach()

    # ------------------------------------------------------------------ contract

    @property
    def transitions_per_task(self) -> int:
        return self.config.batch_size * max(1, self.config.discriminator_steps)

    def update(self, batch: MetaBatch) -> dict[str, Tensor]:
        metric_loss, z = self.metric_loss(batch.contexts)
        _step(self.encoder_optimizer, self.config.metric_weight * metric_loss)
        z = z.detach()

        def rows(tensor: Tensor, draw: int = 0) -> Tensor:
            """The transitions of one draw, (n * batch_size, ...)."""
            b = self.config.batch_size
            return tensor[:, draw * b : (draw + 1) * b].flatten(0, 1)

        z = z.repeat_interleave(self.config.batch_size, 0)
        for draw in range(self.config.discriminator_steps):
            discriminator_loss = self.update_discriminator(
                rows(batch.observations, draw), rows(batch.actions, draw), z
            )
        s, a = rows(batch.observations), rows(batch.actions)
        alpha = self.alpha.clamp(0.0, self.config.alpha_max)
        critic_loss = self.critic_loss(
            s, a, rows(batch.rewards), rows(batch.next_observations), rows(batch.terminated), z, alpha
        )
        _step(self.critic_optimizer, critic_loss)
        with frozen(self.critics, self.discriminator):
            actor_loss, metrics = self.actor_loss(s, a, z, alpha)
            _step(self.actor_optimizer, actor_loss)
        self.update_alpha(metrics["divergence"].detach())
        polyak_update(
            self.target,
            self.critics if self.config.critic_target == "twin_q" else self.value,
            self.config.target_rate,
        )
        losses = {
            "metric_loss": metric_loss,
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "discriminator_loss": discriminator_loss,
        }
        return {name: value.detach() for name, value in {**losses, **metrics, "alpha": self.alpha.clone()}.items()}

    @torch.no_grad()
    def adapt(self, context: Context) -> Policy:
        context.check_finite()
        return LatentPolicy(self.actor, self.embed(context))

    def exported(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "actor": self.actor}


class LatentPolicy(Policy):
    """The actor's mean action given z."""

    def __init__(self, actor: nn.Module, z: Tensor):
        self.actor, self.z = actor, z

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        return self.actor(torch.cat([observations, self.z], -1)).chunk(2, -1)[0].tanh()


def metric_loss(first: Tensor, second: Tensor, beta: float, epsilon: float) -> Tensor:
    """Eq. 13 with n = 2 over all ordered pairs of tasks, two independent context draws each, (n, latent) both.

    d^2 is the mean over latent dimensions of the squared difference. Attraction averages d^2 over the n pairs (i, i),
    repulsion beta / (d^2 + epsilon) over the n (n - 1) pairs of different tasks.
    """
    d2 = (first[:, None] - second[None]).square().mean(-1)
    same = torch.eye(len(first), dtype=torch.bool, device=first.device)
    return d2[same].mean() + (beta / (d2[~same] + epsilon)).mean()


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


def dual_kl(discriminator: nn.Module, s: Tensor, a_pi: Tensor, a_data: Tensor, z: Tensor) -> Tensor:
    """Dual form of KL(pi || data) per transition: log g(a_pi) - g(a_data) + 1 with g = softplus(discriminator)."""
    g_pi = F.softplus(discriminator(torch.cat([s, a_pi, z], -1)))
    g_data = F.softplus(discriminator(torch.cat([s, a_data, z], -1)))
    return (g_pi.log() - g_data + 1).squeeze(-1)


def gradient_penalty(discriminator: nn.Module, s: Tensor, a: Tensor, z: Tensor) -> Tensor:
    """Mean squared excess over 1 of the discriminator's gradient norm with respect to the action (BRAC)."""
    a = a.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(torch.cat([s, a, z], -1)).sum(), a, create_graph=True)
    return (gradient.square().sum(-1).add(1e-8).sqrt() - 1).relu().square().mean()


def output_penalty(discriminator: nn.Module, s: Tensor, a: Tensor, z: Tensor) -> Tensor:
    """What the authors' program computes in its place: the excess over 1 of the discriminator's output."""
    output = discriminator(torch.cat([s, a, z], -1))
    return (output.square().add(1e-8).sqrt() - 1).relu().square().mean()


def q_values(critics: nn.Module, s: Tensor, a: Tensor, z: Tensor) -> Tensor:
    """Both critics at (s, a, z): (2, batch)."""
    inputs = torch.cat([s, a, z], -1)
    return critics(inputs.expand(2, *inputs.shape)).squeeze(-1)


@contextmanager
def frozen(*networks: nn.Module):
    """Inside, losses send gradients through the networks but not to their weights."""
    for network in networks:
        network.requires_grad_(False)
    yield
    for network in networks:
        network.requires_grad_(True)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
