"""Probabilistic models of the dynamics, several for each of n tasks, like those of COMBO (Yu et al., NeurIPS 2021).

A model says of (s, a) how s' - s and the reward are distributed, as independent Gaussians, and how likely the episode
ends there. What it predicts is in units of the data: standardised by mean and standard deviation of the first targets
that it is shown.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omrlbench.algorithms.networks import ensemble_mlp, some_members

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -10.0, 0.5  # of standardised targets
ERROR_RATE = 0.02  # of the running mean of each member's loss
SMALLEST_SCALE = 1e-6  # a target that varies less stays as it is


class TaskModels(nn.Module):
    """`members` models for each of `tasks` tasks, member k of task i in place i * members + k of one ensemble.

    Shapes: n tasks, m members, b transitions.
    """

    def __init__(self, tasks: int, members: int, s: int, a: int, hidden: tuple[int, ...]):
        super().__init__()
        self.tasks, self.members = tasks, members
        self.network = ensemble_mlp(tasks * members, s + a, hidden, 2 * (s + 1) + 1)
        self.register_buffer("shift", torch.zeros(tasks, 1, s + 1))  # of s' - s and the reward
        self.register_buffer("scale", torch.zeros(tasks, 1, s + 1))  # 0 until there is one
        self.register_buffer("error", torch.zeros(tasks, members))  # running mean of the loss

    @property
    def standardized(self) -> bool:
        return bool(self.scale.any())

    def standardize(self, s: Tensor, r: Tensor, s_next: Tensor, pooled: bool) -> None:
        """Take the units of transitions (n, b): each task its own, or all the same if `pooled`."""
        targets = torch.cat([s_next - s, r[..., None]], -1)
        scale, shift = torch.std_mean(targets, (0, 1) if pooled else 1, keepdim=True)
        self.scale.copy_(torch.where(scale > SMALLEST_SCALE, scale, 1.0))
        self.shift.copy_(shift)

    def heads(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log-variance of the standardised targets, and the logit of an end, of what the network puts out."""
        mean, log_variance, end = outputs.split([self.scale.shape[-1]] * 2 + [1], -1)
        log_variance = MAX_LOG_VARIANCE - F.softplus(MAX_LOG_VARIANCE - log_variance)
        return mean, MIN_LOG_VARIANCE + F.softplus(log_variance - MIN_LOG_VARIANCE), end.squeeze(-1)

    def loss(self, s: Tensor, a: Tensor, r: Tensor, s_next: Tensor, terminated: Tensor) -> Tensor:
        """Every member's negative log-likelihood, (n, m), each on its own b of the transitions (n, m * b).

        Of the Gaussians without the constant, averaged over dimensions and transitions, plus the cross-entropy of ends.
        """
        targets = (torch.cat([s_next - s, r[..., None]], -1) - self.shift) / self.scale
        inputs, targets, ends = map(self.per_member, (torch.cat([s, a], -1), targets, terminated))
        mean, log_variance, end = self.heads(self.network(inputs))
        squares = (targets - mean).square() * (-log_variance).exp()
        gaussian = 0.5 * (squares + log_variance).mean((1, 2))
        cross_entropy = F.binary_cross_entropy_with_logits(end, ends, reduction="none").mean(1)
        return (gaussian + cross_entropy).unflatten(0, (self.tasks, -1))

    def per_member(self, column: Tensor) -> Tensor:
        """(n, m * b, ...) -> (n * m, b, ...)."""
        return column.unflatten(1, (self.members, -1)).flatten(0, 1)

    @torch.no_grad()
    def remember(self, loss: Tensor) -> None:
        """Take `loss` (n, m), of transitions before they are learned from, into the running means."""
        self.error.lerp_(loss, ERROR_RATE)

    def elites(self, count: int, generator: torch.Generator) -> Tensor:
        """The place of one of the `count` best members of each task, (n,), drawn uniformly."""
        best = self.error.topk(count, 1, largest=False).indices
        drawn = torch.randint(count, (self.tasks, 1), generator=generator, device=best.device)
        return torch.arange(self.tasks, device=best.device) * self.members + best.gather(1, drawn).squeeze(1)

    @torch.no_grad()
    def sample(self, places: Tensor, s: Tensor, a: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """s' (n, b, observation_dim), reward and probability of an end, (n, b) both, by model `places[i]` of task i.

        `noise` (n, b, observation_dim + 1) is standard normal.
        """
        mean, log_variance, end = self.heads(some_members(self.network, places, torch.cat([s, a], -1)))
        targets = self.shift + self.scale * (mean + (0.5 * log_variance).exp() * noise)
        return s + targets[..., :-1], targets[..., -1], end.sigmoid()

    # ------------------------------------------------------------------ meta-learning

    @torch.no_grad()
    def start_from(self, meta: "TaskModels") -> None:
        """Take parameters and units of `meta`, models of one task with as many members, in every task."""
        for own, shared in zip(self.network.parameters(), meta.network.parameters(), strict=True):
            own.copy_(shared.repeat(self.tasks, 1, 1))
        self.scale.copy_(meta.scale)
        self.shift.copy_(meta.shift)
        self.error.zero_()

    def distance(self, meta: "TaskModels") -> Tensor:
        """Squared distance of the parameters to those of `meta`, summed over tasks and members."""
        pairs = zip(self.network.parameters(), meta.network.parameters(), strict=True)
        pairs = ((own.unflatten(0, (self.tasks, -1)), shared) for own, shared in pairs)
        return sum(F.mse_loss(own, shared.expand_as(own), reduction="sum") for own, shared in pairs)

    @torch.no_grad()
    def move_towards(self, adapted: "TaskModels", rate: float) -> None:
        """phi <- phi - rate (phi - mean theta) member by member, phi of one task, theta of those of `adapted`."""
        for shared, own in zip(self.network.parameters(), adapted.network.parameters(), strict=True):
            shared.lerp_(own.unflatten(0, (adapted.tasks, -1)).mean(0), rate)
