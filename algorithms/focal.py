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

from omrlbench.algorithms.algorithm import Algorithm, AlgorithmConfig, Context, MetaBatch, Policy, require
from omrlbench.algorithms.networks import (
    ensemble_mlp,
    initialize_like_rlkit,
    input_gradient,
    mlp,
    polyak_update,
    squash,
)


@dataclass(frozen=True)
class FocalConfig(AlgorithmConfig):
    latent_dim: int = 20  # size l of the task embedding; Table 4: 5 or 20
    encoder_width: int = 200  # three hidden layers; Table 4
    width: int = 300  # three hidden layers of actor, critics and discriminator; Table 4
    learning_rate: float = 3e-4  # encoder, actor, critics
    discriminator_learning_rate: float = 1e-3  # faster than the actor, which it must keep up with
    discount: float = 0.99
    target_rate: float = 0.005  # Polyak rate of the target critics
    reward_scale: float = 1.0  # the learner's rewards are multiplied by this
    entropy_temperature: float = 0.2  # weight of the entropy bonus, in units of scaled reward
    initialization: Literal["torch", "rlkit"] = "torch"
    min_log_std: float = -20.0
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
    alpha_max: float = 100.0  # adaptive, released
    alpha_step: float = 0.01  # adaptive: alpha += alpha_step * (divergence - divergence_target)
    divergence_target: float = 0.05
    discriminator_steps: int = 3  # discriminator updates per update of the rest, each on transitions of its own
    discriminator_penalty: Literal["gradient", "output"] = "gradient"
    discriminator_penalty_weight: float = 5.0

    # critic target (Eq. 27)
    critic_target: Literal["twin_q", "value_network"] = "twin_q"
    value_penalty_at: Literal["next_state", "state"] = "next_state"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value >= 2, "at least 2, the metric loss compares tasks", "meta_batch")
        sizes = ("latent_dim", "encoder_width", "width", "discriminator_steps")
        require(self, lambda value: value >= 1, "at least 1", *sizes)
        require(self, lambda value: value > 0, "above 0", "learning_rate", "discriminator_learning_rate")
        require(self, lambda value: 0 <= value <= 1, "between 0 and 1", "discount", "target_rate")
        require(self, lambda value: value < self.max_log_std, "below max_log_std", "min_log_std")


POINT_ROBOT = {  # chosen on the validation tasks, see docs/algorithms/focal.md
    "latent_dim": 5,
    "entropy_temperature": 0.01,
    "regularization": "policy",
    "alpha": 10.0,
    "discriminator_learning_rate": 3e-3,
    "discriminator_penalty_weight": 0.2,
}

LOCOMOTION = {  # chosen on the validation tasks of cheetah_vel, see docs/algorithms/focal.md
    "entropy_temperature": 0.01,
    "regularization": "policy",
    "alpha": 10.0,
    "discriminator_learning_rate": 3e-3,
    "discriminator_penalty_weight": 0.01,
}


class Focal(Algorithm):
    Config = FocalConfig
    environment_values = {
        **dict.fromkeys(("sparse_point_robot", "point_robot", "point_robot_wind"), POINT_ROBOT),
        **dict.fromkeys(("cheetah_vel", "cheetah_fwd_back", "ant_fwd_back", "walker_params"), LOCOMOTION),
    }
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
            },
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
            self.value = mlp(s + c.latent_dim, hidden, 1) if c.critic_target == "value_network" else None
            networks = [self.encoder, self.actor, self.critics, self.discriminator, self.value]
            for network in filter(None, networks):
                if c.initialization == "rlkit":
                    initialize_like_rlkit(network, last=1e-3 if network is self.actor else 3e-3)
                network.to(self.device)
        self.target = copy.deepcopy(self.value or self.critics).requires_grad_(False)
        self.encoder_optimizer = adam(self.encoder, c.learning_rate)
        self.actor_optimizer = adam(self.actor, c.learning_rate)
        self.critic_optimizer = adam(self.critics, c.learning_rate)
        self.value_optimizer = adam(self.value, c.learning_rate) if self.value else None
        self.discriminator_optimizer = adam(self.discriminator, c.discriminator_learning_rate)
        self.alpha = torch.tensor(c.alpha, device=self.device)

    # ------------------------------------------------------------------ task inference

    def embed(self, *contexts: Context) -> Tensor:
        """z = mean over context transitions of tanh(encoder), (n, latent_dim); contexts are stacked along n."""
        fields = ["observations", "actions", "rewards"]
        if self.config.context_next_observations:
            fields.append("next_observations")
        columns = [torch.cat([getattr(context, field) for context in contexts]) for field in fields]
        columns[2] = columns[2][..., None]
        return self.encoder(torch.cat(columns, -1)).tanh().mean(1)

    def metric_loss(self, contexts: tuple[Context, Context]) -> tuple[Tensor, Tensor]:
        """The metric loss, and the embeddings of the first draw."""
        c = self.config
        if c.metric_form == "released":
            z = self.embed(contexts[0])
            return released_metric_loss(z, torch.arange(len(z))), z
        first, second = self.embed(*contexts).chunk(2)
        return metric_loss(first, second, c.metric_beta, c.metric_epsilon), first

    # ------------------------------------------------------------------ behaviour regularisation

    def train_discriminator(self, states: Tensor, actions: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """One step per draw of transitions, (draws, batch, ...); the last loss and the first divergence."""
        with torch.no_grad():
            policy_actions, _ = self.sample_action(*self.heads(states, z.expand(len(states), *z.shape)))
        divergences = []
        for s, a_pi, a in zip(states, policy_actions, actions, strict=True):
            loss, divergence = self.discriminator_loss(s, a_pi, a, z)
            step(self.discriminator_optimizer, loss)
            divergences.append(divergence)
        return loss, divergences[0]

    def discriminator_loss(self, s: Tensor, a_pi: Tensor, a: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Penalty at actions between the policy's and the data's, minus the divergence; and the divergence."""
        c = self.config
        mix = torch.rand(len(a), 1, generator=self.generator, device=self.device)
        penalty = gradient_penalty if c.discriminator_penalty == "gradient" else output_penalty
        excess = penalty(self.discriminator, s, a_pi + mix * (a - a_pi), z)
        divergence = dual_kl(self.discriminator, s, a_pi, a, z).mean()
        return c.discriminator_penalty_weight * excess - divergence, divergence.detach()

    def log_ratio(self, s: Tensor, a_pi: Tensor, z: Tensor) -> Tensor:
        """log g(s, a_pi, z), the part of the dual form of KL(pi || data) that depends on the policy, (batch,).

        At the optimal discriminator g is the density ratio, and the rest, 1 - E_data[g], is zero.
        """
        return log_softplus(self.discriminator(torch.cat([s, a_pi, z], -1))).squeeze(-1)

    def update_alpha(self, divergence: Tensor) -> None:
        c = self.config
        if c.alpha_mode == "fixed":
            return
        self.alpha += c.alpha_step * (divergence - c.divergence_target)
        if c.alpha_mode == "adaptive":  # the released program lets the variable wind up and clips its use only
            self.alpha.clamp_(0.0, c.alpha_max)

    # ------------------------------------------------------------------ actor-critic

    def heads(self, s: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(torch.cat([s, z], -1)).chunk(2, -1)
        return mean, log_std.clamp(self.config.min_log_std, self.config.max_log_std)

    def sample_action(self, mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        """A reparameterised action (batch, action_dim) and its log-density (batch,)."""
        return squash(mean, log_std, torch.randn(mean.shape, generator=self.generator, device=self.device))

    def critic_loss(self, s, a, r, s_next, terminated, z, alpha: Tensor) -> Tensor:
        """Eq. 27 with the twin minimum and the entropy bonus of SAC."""
        c = self.config
        with torch.no_grad():
            a_next, log_pi = self.sample_action(*self.heads(s_next, z))
            if self.value:
                value = self.target(torch.cat([s_next, z], -1)).squeeze(-1)
            else:
                value = q_values(self.target, s_next, a_next, z).amin(0) - c.entropy_temperature * log_pi
            if c.regularization in ("value_penalty", "both"):
                if c.value_penalty_at == "next_state":
                    value = value - alpha * self.log_ratio(s_next, a_next, z)
                else:
                    a_pi, _ = self.sample_action(*self.heads(s, z))
                    value = value - alpha * dual_kl(self.discriminator, s, a_pi, a, z)
            backup = c.reward_scale * r + c.discount * (1 - terminated) * value
        return (q_values(self.critics, s, a, z) - backup).square().mean(-1).sum()

    def actor_loss(self, s: Tensor, z: Tensor, alpha: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 28 with the entropy bonus of SAC, and its parts per transition (batch,)."""
        c = self.config
        mean, log_std = self.heads(s, z)
        a_pi, log_pi = self.sample_action(mean, log_std)
        q = q_values(self.critics, s, a_pi, z).amin(0)
        loss = (c.entropy_temperature * log_pi - q).mean()
        if c.regularization in ("policy", "both"):
            loss = loss + alpha * self.log_ratio(s, a_pi, z).mean()
        if c.head_penalty:
            loss = loss + c.head_penalty * (mean.square().mean() + log_std.square().mean())
        return loss, {"q_value": q.detach(), "entropy": -log_pi.detach()}

    def value_loss(self, s: Tensor, z: Tensor, soft_value: Tensor) -> Tensor:
        return F.mse_loss(self.value(torch.cat([s, z], -1)).squeeze(-1), soft_value)

    # ------------------------------------------------------------------ contract

    @property
    def transitions_per_task(self) -> int:
        draws = 1 if self.config.regularization == "none" else self.config.discriminator_steps
        return self.config.batch_size * draws

    def update(self, batch: MetaBatch) -> dict[str, Tensor]:
        c = self.config
        metric_loss, z = self.metric_loss(batch.contexts)
        step(self.encoder_optimizer, c.metric_weight * metric_loss)
        losses, metrics = {"metric_loss": metric_loss}, {}

        def draws(tensor: Tensor) -> Tensor:
            """Split the transitions of each task into draws: (draws, n * batch_size, ...)."""
            return tensor.unflatten(1, (-1, c.batch_size)).transpose(0, 1).flatten(1, 2)

        states, actions = draws(batch.observations), draws(batch.actions)
        z = z.detach().repeat_interleave(c.batch_size, 0)
        if c.regularization != "none":
            losses["discriminator_loss"], metrics["divergence"] = self.train_discriminator(states, actions, z)
        s, a, r = states[0], actions[0], draws(batch.rewards)[0]
        s_next, terminated = draws(batch.next_observations)[0], draws(batch.terminated)[0]
        alpha = self.alpha.clamp(0.0, c.alpha_max) if c.alpha_mode == "released" else self.alpha.clone()
        losses["critic_loss"] = self.critic_loss(s, a, r, s_next, terminated, z, alpha)
        step(self.critic_optimizer, losses["critic_loss"])
        with frozen(self.critics, self.discriminator):
            losses["actor_loss"], parts = self.actor_loss(s, z, alpha)
            step(self.actor_optimizer, losses["actor_loss"])
        if self.value:
            soft_value = parts["q_value"] + c.entropy_temperature * parts["entropy"]
            losses["value_loss"] = self.value_loss(s, z, soft_value)
            step(self.value_optimizer, losses["value_loss"])
        metrics |= {name: part.mean() for name, part in parts.items()} | {"alpha": alpha}
        if c.regularization != "none":
            self.update_alpha(metrics["divergence"])
        polyak_update(self.target, self.value or self.critics, c.target_rate)
        return {name: loss.detach() for name, loss in losses.items()} | metrics

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
    inputs = torch.cat([torch.cat([s, s]), torch.cat([a_pi, a_data]), torch.cat([z, z])], -1)
    c_pi, c_data = discriminator(inputs).chunk(2)
    return (log_softplus(c_pi) - F.softplus(c_data) + 1).squeeze(-1)


def log_softplus(x: Tensor) -> Tensor:
    """log(softplus(x)), which tends to x far below zero, where softplus itself underflows."""
    return torch.where(x < -15, x, F.softplus(x.clamp(min=-15)).log())


def gradient_penalty(discriminator: nn.Module, s: Tensor, a: Tensor, z: Tensor) -> Tensor:
    """Mean squared excess over 1 of the discriminator's gradient norm with respect to the action (BRAC)."""
    action = slice(s.shape[-1], s.shape[-1] + a.shape[-1])
    gradient = input_gradient(discriminator, torch.cat([s, a, z], -1), action)
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
    try:
        yield
    finally:
        for network in networks:
            network.requires_grad_(True)


def adam(network: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
