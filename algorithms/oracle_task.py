"""Reference row: FOCAL's learner that is told the task, z = the standardised task parameters, scaled.

What it earns above `no_context` is what perfect task inference is worth to this learner. The scale gives z the length
that an embedding of `latent_dim` has whose every dimension has unit variance: left alone, the one parameter of
`cheetah_vel` is a small input among many, and the actor tells slow tasks apart late or never.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from omrlbench.algorithms.algorithm import Context, MetaBatch, require
from omrlbench.algorithms.brac import BRAC, BRACConfig


@dataclass(frozen=True)
class OracleTaskConfig(BRACConfig):
    latent_dim: int = 20  # of the embedding that z is as long as; FOCAL's

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value >= 1, "at least 1", "latent_dim")


class OracleTask(BRAC):
    Config = OracleTaskConfig
    revision = 2
    privileged = True

    @property
    def latent_dim(self) -> int:
        return self.problem.task_dim

    def scaled(self, task_parameters: Tensor) -> Tensor:
        return task_parameters * math.sqrt(self.config.latent_dim / self.problem.task_dim)

    def infer(self, batch: MetaBatch) -> tuple[Tensor, float, dict[str, Tensor]]:
        return self.scaled(batch.task_parameters), 0.0, {}

    def embed(self, context: Context) -> Tensor:
        return self.scaled(context.task_parameters)
