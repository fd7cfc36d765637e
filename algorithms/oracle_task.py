"""Reference row: FOCAL that is told the task. Its encoder sees the standardised task parameters in place of a context.

What it earns above `no_context` is what perfect task inference is worth to this learner, and what FOCAL lacks to it is
lost in inferring the task. The parameters themselves would be a poor z, see docs/algorithms/reference_rows.md.
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

    def build_encoder(self):
        c = self.config
        return mlp(self.problem.task_dim, (c.encoder_width,) * 3, c.latent_dim * (2 if c.encoder == "gaussian" else 1))

    def encode(self, *contexts: Context) -> Tensor:
        """What the encoder says of each task, as of one transition: (n, 1, latent or 2 latent)."""
        return self.encoder(torch.cat([context.task_parameters for context in contexts]))[:, None]

    def infer(self, batch: MetaBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        told = replace(batch.contexts[0], task_parameters=batch.task_parameters)
        return super().infer(replace(batch, contexts=(told, told)))
