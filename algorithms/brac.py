"""The behaviour-regularised actor-critic that most methods share, conditioned on a task embedding z.

BRAC (Wu et al. 2019) as FOCAL uses it (Li, Yang and Luo, ICLR 2021; Eq. 6-9, 27, 28): SAC from logged data whose
policy is kept near the data's by a learned divergence, in the critics' target, in the actor's loss, or in both. A
method says where z comes from; how actor, critics and discriminator learn given z is here.
"""

import copy
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omrlbench.algorithms.algorithm import Algorithm, AlgorithmConfig, Context, MetaBatch, Policy, require
from omrlbench.algorithms.divergences import (
    dual_kl,
    dual_w,
    gradient_penalty,
    mmd,
    output_penalty,
    policy_kl,
    policy_w,
)
from omrlbench.algorithms.networks import (
    adam,
    ensemble_mlp,
    frozen,
    initialize_like_rlkit,
    mlp,
    polyak_update,
    squash,
    step,
)

MMD_SAMPLES = 4  # policy actions per state


@dataclass(frozen=True)
class BRACConfig(AlgorithmConfig):
    width: int = 300  # three hidden layers of actor, critics and discriminator; FOCAL, Table 4
    learning_rate: float = 3e-4  # of everything but the discriminator
    discriminator_learning_rate: float = 1e-3  # faster than the actor, which it must keep up with
    discount: float = 0.99
    target_rate: float = 0.005  # Polyak rate of the target critics
    reward_scale: float = 1.0  # the learner's rewards are multiplied by this
    entropy_temperature: float = 0.2  # weight of the entropy bonus, in units of scaled reward
    initialization: Literal["torch", "rlkit"] = "torch"
    min_log_std: float = -20.0
    max_log_std: float = 2.0
    head_penalty: float = 0.0  # weight of the squared mean and log-std that the actor puts out

    # behaviour regularisation (FOCAL, Section 3.2, Appendix E.2)
    regularization: Literal["value_penalty", "policy", "both", "none"] = "both"
    divergence: Literal["kl", "w", "mmd"] = "kl"
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
        require(self, lambda value: value >= 1, "at least 1", "width", "discriminator_steps")
        require(self, lambda value: value > 0, "above 0", "learning_rate", "discriminator_learning_rate")
        weights = ("reward_scale", "entropy_temperature", "head_penalty", "discriminator_penalty_weight")
        regularization = ("alpha", "alpha_max", "alpha_step", "divergence_target")
        require(self, lambda value: value >= 0, "at least 0", *weights, *regularization)
        require(self, lambda value: 0 <= value <= 1, "between 0 and 1", "discount", "target_rate")
        require(self, lambda value: value < self.max_log_std, "below max_log_std", "min_log_std")
        if self.divergence == "mmd" and self.regularization in ("value_penalty", "both"):
            reason = "state with divergence mmd, which compares with the data's action"
            require(self, lambda value: value == "state", reason, "value_penalty_at")


POINT_ROBOT = {  # chosen for FOCAL on the validation tasks, see docs/algorithms/focal.md
    "entropy_temperature": 0.01,
    "regularization": "policy",
    "alpha": 10.0,
    "discriminator_learning_rate": 3e-3,
    "discriminator_penalty_weight": 0.2,
}

LOCOMOTION = {  # chosen for FOCAL on the validation tasks of cheetah_vel, see docs/algorithms/focal.md
    "entropy_temperature": 0.01,
    "regularization": "policy",
    "alpha": 10.0,
    "discriminator_learning_rate": 3e-3,
    "discriminator_penalty_weight": 0.01,
}

# on those of cheetah_vel with mixed data, where alpha is 3: the logged rewards spread 3 times as much here
FWD_BACK = LOCOMOTION | {"learning_rate": 1e-3}

WALKER = LOCOMOTION | {"regularization": "both", "alpha": 4.0, "learning_rate": 1e-3}  # on those of walker_params

ANT = LOCOMOTION | {"alpha": 100.0}  # at 10 Q-values exceed every return, see docs/algorithms/focal.md

ENVIRONMENT_VALUES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("sparse_point_robot", "point_robot", "point_robot_wind"), POINT_ROBOT),
    "cheetah_vel": LOCOMOTION,
    "cheetah_fwd_back": FWD_BACK,
    "ant_fwd_back": ANT,
    "walker_params": WALKER,
}


class BRAC(Algorithm):
    """A subclass defines `latent_dim`, `build_encoder`, `infer` and `embed`."""

    Config = BRACConfig
    environment_values = ENVIRONMENT_VALUES

    def __init__(self, problem, config, seed, device="cpu"):
        super().__init__(problem, config, seed, device)
        c, s, a, z = config, problem.observation_dim, problem.action_dim, self.latent_dim
        hidden = (c.width,) * 3
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = self.build_encoder()
            self.actor = mlp(s + z, hidden, 2 * a)
            self.critics = ensemble_mlp(2, s + a + z, hidden, 1)
            self.discriminator = mlp(s + a + z, hidden, 1) if self.learns_divergence else None
            self.value = mlp(s + z, hidden, 1) if c.critic_target == "value_network" else None
            for network in filter(None, [self.encoder, self.actor, self.critics, self.discriminator, self.value]):
                if c.initialization == "rlkit":
                    initialize_like_rlkit(network, last=1e-3 if network is self.actor else 3e-3)
                network.to(self.device)
        self.target = copy.deepcopy(self.value or self.critics).requires_grad_(False)
        if self.encoder:
            self.encoder_optimizer = adam(self.encoder, c.learning_rate)
        self.actor_optimizer = adam(self.actor, c.learning_rate)
        self.critic_optimizer = adam(self.critics, c.learning_rate)
        if self.value:
            self.value_optimizer = adam(self.value, c.learning_rate)
        if self.discriminator:
            self.discriminator_optimizer = adam(self.discriminator, c.discriminator_learning_rate)
        self.alpha = torch.tensor(c.alpha, device=self.device)
        self.codes = torch.zeros(problem.n_train_tasks, z, device=self.device)  # the last of each training task

    # ------------------------------------------------------------------ task inference

    @property
    @abstractmethod
    def latent_dim(self) -> int:
        """Size of z."""

    @property
    def coupled(self) -> bool:
        """Whether the critics' loss (the Bellman error) reaches the encoder."""
        return False

    @property
    def encoder_optimizers(self) -> list[torch.optim.Optimizer]:
        """Those that step down the encoder's own loss."""
        return [self.encoder_optimizer] if self.encoder else []

    def build_encoder(self) -> nn.Sequential | None:
        """The context encoder, None for a method without one."""
        return None

    @abstractmethod
    def infer(self, batch: MetaBatch) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
        """z (n, latent) of a meta-batch, the encoder's own loss, and its parts as metrics."""

    # ------------------------------------------------------------------ behaviour regularisation

    def measure_divergence(self, states: Tensor, actions: Tensor, z: Tensor) -> dict[str, Tensor]:
        """The divergence at the first draw of transitions, (draws, batch, ...).

        One step of the discriminator per draw comes with it, where the divergence is learned.
        """
        if self.config.divergence == "mmd":
            with torch.no_grad():
                return {"divergence": self.mmd(states[0], actions[0], z).mean()}
        with torch.no_grad():
            policy_actions, _ = self.sample_action(*self.heads(states, z.expand(len(states), *z.shape)))
        divergences = []
        for s, a_pi, a in zip(states, policy_actions, actions, strict=True):
            loss, divergence = self.discriminator_loss(s, a_pi, a, z)
            step(loss, self.discriminator_optimizer)
            divergences.append(divergence)
        return {"discriminator_loss": loss, "divergence": divergences[0]}

    def discriminator_loss(self, s: Tensor, a_pi: Tensor, a: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Penalty at actions between the policy's and the data's, minus the divergence; and the divergence."""
        c = self.config
        mix = torch.rand(len(a), 1, generator=self.generator, device=self.device)
        penalty = gradient_penalty if c.discriminator_penalty == "gradient" else output_penalty
        excess = penalty(self.discriminator, s, a_pi + mix * (a - a_pi), z)
        dual = dual_kl if c.divergence == "kl" else dual_w
        divergence = dual(self.discriminator, s, a_pi, a, z).mean()
        return c.discriminator_penalty_weight * excess - divergence, divergence.detach()

    def policy_part(self, s: Tensor, a_pi: Tensor, z: Tensor) -> Tensor:
        """The divergence without what does not depend on the policy, (batch,)."""
        part = policy_kl if self.config.divergence == "kl" else policy_w
        return part(self.discriminator, s, a_pi, z)

    def mmd(self, s: Tensor, a: Tensor, z: Tensor) -> Tensor:
        """`divergences.mmd` of fresh policy actions at (s, z) and the data's `a`, (batch,)."""
        mean, log_std = (head.expand(MMD_SAMPLES, *head.shape) for head in self.heads(s, z))
        return mmd(self.sample_action(mean, log_std)[0], a)

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
                value = value - alpha * self.value_penalty(s, a, s_next, a_next, z)
            backup = c.reward_scale * r + c.discount * (1 - terminated) * value
        return (q_values(self.critics, s, a, z) - backup).square().mean(-1).sum()

    def value_penalty(self, s: Tensor, a: Tensor, s_next: Tensor, a_next: Tensor, z: Tensor) -> Tensor:
        """The divergence in the critics' target, (batch,)."""
        c = self.config
        if c.value_penalty_at == "next_state":
            return self.policy_part(s_next, a_next, z)
        if c.divergence == "mmd":
            return self.mmd(s, a, z)
        a_pi, _ = self.sample_action(*self.heads(s, z))
        dual = dual_kl if c.divergence == "kl" else dual_w
        return dual(self.discriminator, s, a_pi, a, z)

    def actor_loss(self, s: Tensor, a: Tensor, z: Tensor, alpha: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 28 with the entropy bonus of SAC, and its parts per transition (batch,)."""
        c = self.config
        mean, log_std = self.heads(s, z)
        a_pi, log_pi = self.sample_action(mean, log_std)
        q = q_values(self.critics, s, a_pi, z).amin(0)
        loss, parts = (c.entropy_temperature * log_pi - q).mean(), {"q_value": q.detach(), "entropy": -log_pi.detach()}
        if c.regularization in ("policy", "both"):
            divergence = self.mmd(s, a, z) if c.divergence == "mmd" else self.policy_part(s, a_pi, z)
            loss = loss + alpha * divergence.mean()
        if c.head_penalty:
            loss = loss + c.head_penalty * (mean.square().mean() + log_std.square().mean())
        return loss, parts

    def value_loss(self, s: Tensor, z: Tensor, soft_value: Tensor) -> Tensor:
        return F.mse_loss(self.value(torch.cat([s, z], -1)).squeeze(-1), soft_value)

    # ------------------------------------------------------------------ contract

    @property
    def learns_divergence(self) -> bool:
        """Whether there is a discriminator."""
        return self.config.regularization != "none" and self.config.divergence != "mmd"

    @property
    def transitions_per_task(self) -> int:
        return self.config.batch_size * (self.config.discriminator_steps if self.learns_divergence else 1)

    def update(self, batch: MetaBatch) -> dict[str, Tensor]:
        c = self.config
        codes, encoder_loss, metrics = self.infer(batch)
        self.codes[batch.tasks] = codes.detach()

        def draws(tensor: Tensor) -> Tensor:
            """Split the transitions of each task into draws: (draws, n * batch_size, ...)."""
            return tensor.unflatten(1, (-1, c.batch_size)).transpose(0, 1).flatten(1, 2)

        states, actions = draws(batch.observations), draws(batch.actions)
        attached = codes.repeat_interleave(c.batch_size, 0)
        z = attached.detach()
        if c.regularization != "none":
            metrics |= self.measure_divergence(states, actions, z)
        s, a, r = states[0], actions[0], draws(batch.rewards)[0]
        s_next, terminated = draws(batch.next_observations)[0], draws(batch.terminated)[0]
        alpha = self.alpha.clamp(0.0, c.alpha_max) if c.alpha_mode == "released" else self.alpha.clone()
        critic_loss = self.critic_loss(s, a, r, s_next, terminated, attached if self.coupled else z, alpha)
        step(critic_loss + encoder_loss, self.critic_optimizer, *self.encoder_optimizers)
        with frozen(self.critics, *filter(None, [self.discriminator])):
            actor_loss, parts = self.actor_loss(s, a, z, alpha)
            step(actor_loss, self.actor_optimizer)
        metrics |= {"critic_loss": critic_loss, "actor_loss": actor_loss}
        if self.value:
            soft_value = parts["q_value"] + c.entropy_temperature * parts["entropy"]
            metrics["value_loss"] = self.value_loss(s, z, soft_value)
            step(metrics["value_loss"], self.value_optimizer)
        metrics |= {name: part.mean() for name, part in parts.items()} | {"alpha": alpha}
        metrics["q_value_max"] = parts["q_value"].max()
        if c.regularization != "none":
            self.update_alpha(metrics["divergence"])
        polyak_update(self.target, self.value or self.critics, c.target_rate)
        return {name: value.detach() for name, value in metrics.items()}

    @torch.no_grad()
    def adapt(self, context: Context) -> Policy:
        context.check_finite()
        return self.policy(self.embed(context))

    def policy(self, z: Tensor) -> Policy:
        return LatentPolicy(self.actor, z)

    @torch.no_grad()
    def prior(self, n: int, generator: torch.Generator) -> Policy:
        """The policies of n random training tasks, given the last code of each."""
        tasks = torch.randint(len(self.codes), (n,), generator=generator, device=self.device)
        return self.policy(self.codes[tasks])

    def exported(self) -> dict[str, nn.Module | Tensor]:
        return {"actor": self.actor, "codes": self.codes} | ({"encoder": self.encoder} if self.encoder else {})


class LatentPolicy(Policy):
    """The actor's mean action given z."""

    def __init__(self, actor: nn.Module, z: Tensor):
        self.actor, self.z = actor, z

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        return self.actor(torch.cat([observations, self.z], -1)).chunk(2, -1)[0].tanh()


def q_values(critics: nn.Module, s: Tensor, a: Tensor, z: Tensor) -> Tensor:
    """Both critics at (s, a, z): (2, batch)."""
    inputs = torch.cat([s, a, z], -1)
    return critics(inputs.expand(2, *inputs.shape)).squeeze(-1)
