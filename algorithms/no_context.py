"""Reference row: FOCAL's learner without task inference, z = 0 in every task.

What it earns needs no context. A meta-environment where it does as well as the others says nothing about adaptation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from omrlbench.algorithms.algorithm import Context, MetaBatch, require
from omrlbench.algorithms.brac import BRAC, BRACConfig


@dataclass(frozen=True)
class NoContextConfig(BRACConfig):
    latent_dim: int = 20  # as FOCAL's, so that the networks have the same sizes

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value >= 1, "at least 1", "latent_dim")


class NoContext(BRAC):
    Config = NoContextConfig

    @property
    def latent_dim(self) -> int:
        return self.config.latent_dim

    def zeros(self, n: int) -> Tensor:
        return torch.zeros(n, self.latent_dim, device=self.device)

    def infer(self, batch: MetaBatch) -> tuple[Tensor, float, dict[str, Tensor]]:
        return self.zeros(len(batch.tasks)), 0.0, {}

    def embed(self, context: Context) -> None:
        return None

    @torch.no_grad()
    def adapt(self, context: Context):
        context.check_finite()
        return self.policy(self.zeros(len(context.rewards)))
