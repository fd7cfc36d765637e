"""MBML: multi-task batch RL with metric learning (Li et al., NeurIPS 2020), in three stages.

1. *teachers*: batch-constrained Q-learning (`bcq.py`) in every training task by itself, all tasks side by side.
2. *ensembles*: per task, several networks that predict the reward of (s, a), and where tasks differ in their dynamics
   the next observation too. Where they agree on another task's transition, it can be relabelled.
3. *train*: a student that is given z imitates the teachers. Its probabilistic encoder learns from the student's value
   error, a triplet loss over relabelled contexts, and the divergence from N(0, I).

Differences from the released program (facts A): teachers are kept as they are after their last update, since choosing
them by online return is not offline; stage 3 draws meta-batches in place of all tasks at every step; where fewer
relabelled transitions are accepted than a context takes, own ones fill it up (the program fails); networks have three
hidden layers in place of seven to nine; thresholds that are not published are a fraction of the standard deviation over
the training tasks, of rewards and of observations; at test time z is the posterior's mean, inferred once
from a logged context.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omrlbench.algorithms.algorithm import Algorithm, AlgorithmConfig, Context, MetaBatch, Policy, require
from omrlbench.algorithms.bcq import (
    LATENT_RANGE,
    ActionDecoder,
    ActionVAE,
    CandidatePolicy,
    best_value,
    perturbation,
    perturbed,
    q_loss,
    twin_q,
)
from omrlbench.algorithms.encoders import (
    kl_divergence,
    kl_to_standard_normal,
    product_of_gaussians,
    transition_features,
    transitions,
)
from omrlbench.algorithms.networks import adam, ensemble_mlp, frozen, mlp, polyak_update, some_members, step


@dataclass(frozen=True)
class MBMLConfig(AlgorithmConfig):
    learning_rate: float = 3e-4
    discount: float = 0.99
    target_rate: float = 0.005

    # teachers
    teacher_steps: int = 100_000
    teacher_batch_size: int = 100  # transitions per task
    teacher_width: int = 400  # two hidden layers of every teacher network

    # ensembles
    ensemble_steps: int = 4_000
    ensemble_batch_size: int = 128  # transitions per task
    ensemble_size: int = 20
    ensemble_width: int = 128  # one hidden layer
    next_observations_differ: bool = False  # whether the tasks' dynamics differ, and not just their rewards

    # student
    latent_dim: int = 20
    encoder_width: int = 200  # three hidden layers
    width: int = 300  # three hidden layers of the student's networks
    kl_weight: float = 0.1
    triplet_margin: float = 2.0
    reward_threshold: float | None = None  # accepted standard deviation over the ensemble; none: by the fraction
    threshold_fraction: float = 0.1  # of the standard deviation over the training tasks' data

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value >= 2, "at least 2, the triplet loss compares tasks", "meta_batch")
        require(self, lambda value: value >= 2, "at least 2, disagreement takes two", "ensemble_size")
        sizes = ("teacher_batch_size", "teacher_width", "ensemble_batch_size", "ensemble_width")
        steps = ("teacher_steps", "ensemble_steps")
        require(self, lambda value: value >= 1, "at least 1", *steps, *sizes, "latent_dim", "encoder_width", "width")
        require(self, lambda value: value > 0, "above 0", "learning_rate", "threshold_fraction")
        require(self, lambda value: value >= 0, "at least 0", "triplet_margin", "kl_weight")
        require(self, lambda value: 0 <= value <= 1, "between 0 and 1", "discount", "target_rate")


class MBML(Algorithm):
    Config = MBMLConfig
    environment_values = {
        "sparse_point_robot": {"learning_rate": 1e-3, "kl_weight": 1e-3},  # by trials on cheetah_vel, and so below
        "point_robot": {"learning_rate": 1e-3, "kl_weight": 1e-3},
        "point_robot_wind": {"learning_rate": 1e-3, "kl_weight": 1e-3, "next_observations_differ": True},
        "cheetah_vel": {"learning_rate": 1e-3, "kl_weight": 1e-3, "reward_threshold": 0.05},  # facts A.8, and so below
        "ant_fwd_back": {"reward_threshold": 0.1},
        "walker_params": {"learning_rate": 1e-3, "next_observations_differ": True, "reward_threshold": 0.1},
    }

    def __init__(self, problem, config, seed, device="cpu"):
        super().__init__(problem, config, seed, device)
        c, n, s, a = config, problem.n_train_tasks, problem.observation_dim, problem.action_dim
        two, three, features = (c.teacher_width,) * 2, (c.width,) * 3, s + c.latent_dim
        predicted = 1 + (s if c.next_observations_differ else 0)  # reward first
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.teacher_vae = ActionVAE(n, s, a, two).to(self.device)
            self.teacher_critics = ensemble_mlp(2 * n, s + a, two, 1).to(self.device)
            self.teacher_perturbation = perturbation(n, s, a, two).to(self.device)
            self.ensembles = ensemble_mlp(n * c.ensemble_size, s + a, (c.ensemble_width,), predicted).to(self.device)
            self.encoder = mlp(transition_features(s, a), (c.encoder_width,) * 3, 2 * c.latent_dim).to(self.device)
            self.critic = ensemble_mlp(1, features + a, three, 1).to(self.device)
            self.decoder = ActionDecoder(1, features, a, three).to(self.device)
            self.perturbation = perturbation(1, features, a, three).to(self.device)
        self.teacher_critic_target = copy.deepcopy(self.teacher_critics).requires_grad_(False)
        self.teacher_perturbation_target = copy.deepcopy(self.teacher_perturbation).requires_grad_(False)
        self.teacher_vae_optimizer = adam(self.teacher_vae, c.learning_rate)
        self.teacher_critic_optimizer = adam(self.teacher_critics, c.learning_rate)
        self.teacher_perturbation_optimizer = adam(self.teacher_perturbation, c.learning_rate)
        self.ensemble_optimizer = adam(self.ensembles, c.learning_rate)
        self.encoder_optimizer = adam(self.encoder, c.learning_rate)
        self.critic_optimizer = adam(self.critic, c.learning_rate)
        self.decoder_optimizer = adam(self.decoder, c.learning_rate)
        self.perturbation_optimizer = adam(self.perturbation, c.learning_rate)
        self.label_moments = torch.zeros(3, predicted, dtype=torch.float64, device=self.device)  # count, sum, squares

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    # ------------------------------------------------------------------ stage 1: teachers

    def update_teachers(self, batch: MetaBatch) -> dict[str, Tensor]:
        """One update of every task's BCQ; losses are summed over tasks."""
        order = batch.tasks.argsort().to(self.device)
        columns = (batch.observations, batch.actions, batch.rewards, batch.next_observations, batch.terminated)
        s, a, r, s_next, terminated = (column[order] for column in columns)
        vae, n = self.teacher_vae, len(s)
        vae_loss = vae.loss(s, a, self.noise(n, s.shape[1], vae.latent_dim))
        with torch.no_grad():
            value = best_value(self.teacher_critic_target, self.teacher_perturbation_target, vae, s_next, self.noise)
            backup = r + self.config.discount * (1 - terminated) * value
        critic_loss = q_loss(twin_q(self.teacher_critics, s, a), backup)
        step(vae_loss + critic_loss, self.teacher_vae_optimizer, self.teacher_critic_optimizer)
        with frozen(self.teacher_critics, vae):
            decoded = vae.sample(s, self.noise(n, s.shape[1], vae.latent_dim))
            q = twin_q(self.teacher_critics, s, perturbed(self.teacher_perturbation, s, decoded))[0]
            step(-q.mean(1).sum(), self.teacher_perturbation_optimizer)
        polyak_update(self.teacher_critic_target, self.teacher_critics, self.config.target_rate)
        polyak_update(self.teacher_perturbation_target, self.teacher_perturbation, self.config.target_rate)
        per_task = {
            "teacher_vae_loss": vae_loss / n,
            "teacher_critic_loss": critic_loss / n,
            "teacher_q_value": q.mean(),
        }
        return {name: value.detach() for name, value in per_task.items()}

    # ------------------------------------------------------------------ stage 2: ensembles

    def update_ensembles(self, batch: MetaBatch) -> dict[str, Tensor]:
        """One update of all members; those of a task see the same transitions, with the environment's own reward."""
        order, context = batch.tasks.argsort().to(self.device), batch.contexts[0]
        columns = (context.observations, context.actions, context.rewards, context.next_observations)
        s, a, r, s_next = (column[order] for column in columns)
        wanted = torch.cat([r[..., None], s_next], -1) if self.config.next_observations_differ else r[..., None]
        self.label_moments += torch.stack([torch.ones_like(wanted), wanted, wanted.square()]).double().sum((1, 2))
        inputs = torch.cat([s, a], -1).repeat_interleave(self.config.ensemble_size, 0)
        errors = (self.ensembles(inputs).unflatten(0, (len(s), -1)) - wanted[:, None]).square().mean((0, 1, 2))
        members = len(s) * self.config.ensemble_size
        loss = members * (errors[0] + (errors[1:].mean() if len(errors) > 1 else 0.0))
        step(loss, self.ensemble_optimizer)
        return {"ensemble_loss": loss.detach() / members}

    def label_std(self) -> Tensor:
        """Of what the ensembles predict, reward first, over the data that they have seen of all tasks: (outputs,)."""
        count, total, squares = self.label_moments
        std = (squares / count - (total / count).square()).clamp(min=0).sqrt().float()
        if self.problem.observation_mean is not None:
            std[1:] = 1.0  # the suite standardises observations
        return std

    def prediction(self, task: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over a task's ensemble for inputs (1, b, observation_dim + action_dim)."""
        members = task * self.config.ensemble_size + torch.arange(self.config.ensemble_size, device=self.device)
        outputs = some_members(self.ensembles, members, inputs.expand(len(members), -1, -1))
        return outputs.mean(0), outputs.std(0)

    @torch.no_grad()
    def relabel(self, tasks: Tensor, context: Context) -> tuple[Context, Tensor]:
        """Every task's transitions as each task i of `tasks` (n,) would label them.

        Returns a context of n * n tasks, (i, j) in row i * n + j, and a mask (n, n, k) of the transitions on which the
        ensemble of i agrees. A task's own transitions keep their labels and are not in the mask.
        """
        c, (n, k) = self.config, context.rewards.shape
        inputs = torch.cat([context.observations, context.actions], -1).reshape(1, n * k, -1)
        predictions = [self.prediction(task, inputs) for task in tasks]  # one by one, units stay in the cache
        mean, std = (torch.stack(column).reshape(n, n, k, -1) for column in zip(*predictions, strict=True))
        label_std = self.label_std()
        threshold = c.threshold_fraction * label_std[0] if c.reward_threshold is None else c.reward_threshold
        accepted = std[..., 0] < threshold
        own = torch.eye(n, dtype=torch.bool, device=self.device)[..., None]
        rewards = torch.where(own, context.rewards[None], mean[..., 0])
        s_next = context.next_observations.expand(n, *context.next_observations.shape)
        if c.next_observations_differ:
            accepted = accepted & ((std[..., 1:] / label_std[1:]).mean(-1) < c.threshold_fraction)
            s_next = torch.where(own[..., None], s_next, mean[..., 1:])
        pairs = (n * n, k)
        relabelled = Context(
            context.observations.expand(n, n, k, -1).reshape(*pairs, -1),
            context.actions.expand(n, n, k, -1).reshape(*pairs, -1),
            rewards.reshape(pairs),
            s_next.reshape(*pairs, -1),
        )
        return relabelled, accepted & ~own

    # ------------------------------------------------------------------ stage 3: task inference

    def embed(self, context: Context) -> Tensor:
        """The posterior's mean, (n, latent)."""
        return product_of_gaussians(self.encoder(transitions(context)))[0]

    def extended_posterior(self, own: Tensor, spare: Tensor, relabelled: Tensor, accepted: Tensor):
        """The posterior of each task's own context and as many relabelled transitions of the others.

        `own` and `spare` (n, k, 2 latent) are what the encoder says of two draws of the task's transitions,
        `relabelled` (n, n, k, 2 latent) of the relabelled ones, of which those that are `accepted` (n, n, k) are drawn
        without replacement. Where they are fewer than k, spare ones take the missing places.
        """
        n, k = own.shape[:2]
        keys = torch.rand(n, n * k, generator=self.generator, device=self.device)
        keys, places = torch.where(accepted.reshape(n, -1), keys, -1.0).topk(k, 1)
        drawn = relabelled.reshape(n, n * k, -1).gather(1, places[..., None].expand(-1, -1, own.shape[-1]))
        added = torch.where((keys >= 0)[..., None], drawn, spare)
        return product_of_gaussians(torch.cat([own, added], 1))

    def triplet_loss(self, own: Tensor, relabelled: Tensor, accepted: Tensor) -> Tensor:
        """Mean over ordered pairs (i, j) of different tasks of relu(KL(anchor || i) - KL(anchor || j) + margin).

        The anchor is what is accepted of task j's context relabelled as task i, j's posterior sees the same transitions
        with their own labels, and i's equally many of its own. Shapes as in `extended_posterior`.
        """
        n, k = own.shape[:2]
        rank = torch.rand(n, n, k, generator=self.generator, device=self.device).argsort(-1)
        as_many = rank < accepted.sum(-1, keepdim=True)
        anchor = product_of_gaussians(relabelled, accepted)
        positive = product_of_gaussians(own[:, None].expand(n, n, -1, -1), as_many)
        negative = product_of_gaussians(own[None].expand(n, n, -1, -1), accepted)
        distances = kl_divergence(*anchor, *positive) - kl_divergence(*anchor, *negative)
        different = ~torch.eye(n, dtype=torch.bool, device=self.device)
        return (distances + self.config.triplet_margin).relu()[different].mean()

    # ------------------------------------------------------------------ stage 3: distillation

    def update_student(self, batch: MetaBatch) -> dict[str, Tensor]:
        c, tasks = self.config, batch.tasks.to(self.device)
        n, size = batch.rewards.shape
        relabelled_context, accepted = self.relabel(tasks, batch.contexts[0])
        own, spare = self.encoder(transitions(*batch.contexts)).chunk(2)
        relabelled = self.encoder(transitions(relabelled_context)).unflatten(0, (n, n))
        triplet_loss = self.triplet_loss(own, relabelled, accepted)
        mean, variance = self.extended_posterior(own, spare, relabelled, accepted)
        kl_loss = kl_to_standard_normal(mean, variance)
        z = (mean + variance.sqrt() * self.noise(*mean.shape))[:, None].expand(-1, size, -1)

        s, a = batch.observations, batch.actions
        features = torch.cat([s, z], -1).reshape(1, n * size, -1)
        with torch.no_grad():
            teacher_q = some_members(self.teacher_critics, tasks, torch.cat([s, a], -1))
        value_loss = (self.student_q(features, a.reshape(1, n * size, -1)) - teacher_q.reshape(1, -1)).square().mean()
        encoder_loss = triplet_loss + c.kl_weight * kl_loss + value_loss
        step(encoder_loss, self.encoder_optimizer, self.critic_optimizer)

        decoder_loss, perturbation_loss = self.imitation_losses(tasks, s, features.detach())
        step(decoder_loss + perturbation_loss, self.decoder_optimizer, self.perturbation_optimizer)
        losses = {"triplet_loss": triplet_loss, "kl_loss": kl_loss, "value_loss": value_loss}
        losses |= {"decoder_loss": decoder_loss, "perturbation_loss": perturbation_loss}
        others = accepted.float().sum() / (n * (n - 1) * accepted.shape[-1])
        metrics = {"accepted": others, "q_value": teacher_q.mean(), "q_value_max": teacher_q.max()}
        return {name: value.detach() for name, value in (losses | metrics).items()}

    def student_q(self, features: Tensor, actions: Tensor) -> Tensor:
        """(1, batch)."""
        return self.critic(torch.cat([features, actions], -1)).squeeze(-1)

    def imitation_losses(self, tasks: Tensor, s: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared differences to the teachers' decoded actions and to their perturbations of these."""
        n, size = s.shape[:2]
        latent = self.noise(n, size, self.decoder.latent_dim).clamp(-LATENT_RANGE, LATENT_RANGE)
        with torch.no_grad():
            decoded = some_members(self.teacher_vae.decoder, tasks, torch.cat([s, latent], -1)).tanh()
            change = some_members(self.teacher_perturbation, tasks, torch.cat([s, decoded], -1)).tanh()
        decoded, change, latent = (x.reshape(1, n * size, -1) for x in (decoded, change, latent))
        own_change = self.perturbation(torch.cat([features, decoded], -1)).tanh()
        decoder_loss = (self.decoder.decode(features, latent) - decoded).square().mean()
        return decoder_loss, (own_change - change).square().mean()

    # ------------------------------------------------------------------ contract

    @property
    def stages(self) -> dict[str, int]:
        return {"teachers": self.config.teacher_steps, "ensembles": self.config.ensemble_steps}

    @property
    def tasks_per_batch(self) -> int:
        return self.config.meta_batch if self.stage == "train" else self.problem.n_train_tasks

    @property
    def transitions_per_task(self) -> int:
        return {"teachers": self.config.teacher_batch_size, "ensembles": 1, "train": self.config.batch_size}[self.stage]

    @property
    def context_per_task(self) -> int:
        return {"teachers": 1, "ensembles": self.config.ensemble_batch_size, "train": self.config.context_size}[
            self.stage
        ]

    def update(self, batch: MetaBatch) -> dict[str, Tensor]:
        updates = {"teachers": self.update_teachers, "ensembles": self.update_ensembles, "train": self.update_student}
        return updates[self.stage](batch)

    def policy(self, z: Tensor) -> Policy:
        return CandidatePolicy(self.decoder, self.perturbation, self.student_q, z)

    @torch.no_grad()
    def adapt(self, context: Context) -> Policy:
        context.check_finite()
        return self.policy(self.embed(context))

    @torch.no_grad()
    def prior(self, n: int, generator: torch.Generator) -> Policy:
        """Policies given z drawn from N(0, I)."""
        return self.policy(torch.randn(n, self.config.latent_dim, generator=generator, device=self.device))

    def exported(self) -> dict[str, nn.Module]:
        networks = {"critic": self.critic, "perturbation": self.perturbation}
        return {"encoder": self.encoder, "decoder": self.decoder} | networks
