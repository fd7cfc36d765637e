"""Reference rows that learn nothing: no action, random actions, and the policy that collected the expert data."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from omrlbench.algorithms.algorithm import Algorithm, Context, MetaBatch, Policy


class Untrained(Algorithm):
    """Runs for as many updates as there are evaluations behind a score; an update does nothing."""

    training_values = {"steps": 3, "eval_interval": 1}

    def update(self, batch: MetaBatch) -> dict[str, Tensor]:
        return {}

    def prior(self, n: int, generator: torch.Generator) -> Policy:
        """The action 0: none of these learns anything from what it collects."""
        return FunctionPolicy(lambda observations: observations.new_zeros(len(observations), self.problem.action_dim))


class FunctionPolicy(Policy):
    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.function = function

    def act(self, observations: Tensor) -> Tensor:
        return self.function(observations)


class DoNothing(Untrained):
    """The action 0, always."""

    def adapt(self, context: Context) -> Policy:
        context.check_finite()
        return self.prior(len(context.rewards), self.generator)


class RandomPolicy(Untrained):
    """Uniform actions, drawn anew at each step; every update begins another stream of them."""

    deterministic = False

    def __init__(self, problem, config, seed, device="cpu"):
        super().__init__(problem, config, seed, device)
        self.stream = torch.zeros((), dtype=torch.int64, device=self.device)

    def update(self, batch: MetaBatch) -> dict[str, Tensor]:
        self.stream = torch.randint(2**31, (), generator=self.generator, device=self.device)
        return {}

    def adapt(self, context: Context) -> Policy:
        context.check_finite()
        return self.prior(len(context.rewards), torch.Generator(self.device).manual_seed(int(self.stream)))

    def prior(self, n: int, generator: torch.Generator) -> Policy:
        def act(observations: Tensor) -> Tensor:
            size = (len(observations), self.problem.action_dim)
            return 2 * torch.rand(size, generator=generator, device=self.device) - 1

        return FunctionPolicy(act)


class ExpertPolicy(Untrained):
    """The mean action of the shipped behaviour policy of the expert level, which is told the task."""

    privileged = True

    def adapt(self, context: Context) -> Policy:
        from omrlbench.data.checkpoints import expert_policy
        from omrlbench.envs.registry import get_meta_env

        context.check_finite()
        expert = expert_policy(get_meta_env(self.problem.env), context.task_ids.tolist())

        def act(observations: Tensor) -> Tensor:
            seen = self.problem.unstandardized(observations).cpu().numpy()
            return torch.as_tensor(expert(seen.astype(np.float32)), device=self.device)

        return FunctionPolicy(act)
