"""Reference row: FOCAL that is told the task. z is the standardised task parameters beside an embedding of them.

FOCAL's encoder sees the parameters in place of a context. What the row earns above `no_context` is what perfect task
inference is worth to this learner. Why z is both is in docs/algorithms/oracle_task.md.
"""

from dataclasses import replace

import torch
from torch import Tensor

from omrlbench.algorithms.algorithm import Context, MetaBatch
from omrlbench.algorithms.focal import Focal
from omrlbench.algorithms.networks import mlp


class OracleTask(Focal):
    revision = 2
    privileged = True
    presets = {}

    @property
    def latent_dim(self) -> int:
        return self.config.latent_dim + self.problem.task_dim

    @property
    def bounded(self) -> bool:
        return False

    def build_encoder(self):
        c = self.config
        return mlp(self.problem.task_dim, (c.encoder_width,) * 3, c.latent_dim * (2 if c.encoder == "gaussian" else 1))

    def encode(self, *contexts: Context) -> Tensor:
        """What the encoder says of each task, as of one transition: (n, 1, latent or 2 latent)."""
        return self.encoder(torch.cat([context.task_parameters for context in contexts]))[:, None]

    def embed(self, context: Context) -> Tensor:
        """The embedding, and the parameters: (n, latent + task_dim)."""
        return torch.cat([super().embed(context), context.task_parameters], -1)

    def infer(self, batch: MetaBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        told = replace(batch.contexts[0], task_parameters=batch.task_parameters)
        codes, loss, metrics = super().infer(replace(batch, contexts=(told, told)))
        return torch.cat([codes, batch.task_parameters], -1), loss, metrics
