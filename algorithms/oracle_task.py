"""Reference row: FOCAL's learner that is told the task, z = the standardised task parameters.

What it earns above `no_context` is what perfect task inference is worth to this learner.
"""

from torch import Tensor

from omrlbench.algorithms.algorithm import Context, MetaBatch
from omrlbench.algorithms.brac import BRAC


class OracleTask(BRAC):
    privileged = True

    @property
    def latent_dim(self) -> int:
        return self.problem.task_dim

    def infer(self, batch: MetaBatch) -> tuple[Tensor, float, dict[str, Tensor]]:
        return batch.task_parameters, 0.0, {}

    def embed(self, context: Context) -> Tensor:
        return context.task_parameters
