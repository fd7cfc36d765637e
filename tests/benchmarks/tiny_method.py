"""Small methods for tests of the harness."""

from dataclasses import dataclass

import torch

from omrlbench.algorithms.algorithm import Algorithm, AlgorithmConfig, Policy


@dataclass(frozen=True)
class CloningConfig(AlgorithmConfig):
    meta_batch: int = 4
    batch_size: int = 16
    context_size: int = 8
    latent_dim: int = 3
    learning_rate: float = 1e-2
    hidden: tuple[int, ...] = (16,)
    noise: float = 0.1
    dropout: float | None = None
    discount: float = 0.99
    breaks_after: int = 10**9  # updates until the loss is NaN


class Cloning(Algorithm):
    """Behaviour cloning given the mean of an encoded context, with noise so that random state matters."""

    Config = CloningConfig
    presets = {"wide": {"hidden": (32,)}}
    environment_values = {"point_robot_wind": {"learning_rate": 3e-3}}

    def __init__(self, problem, config, seed, device="cpu"):
        super().__init__(problem, config, seed, device)
        s, a = problem.observation_dim, problem.action_dim
        self.encoder = torch.nn.Linear(2 * s + a + 1, config.latent_dim)
        sizes = (s + config.latent_dim, *config.hidden)
        layers = [
            torch.nn.Sequential(torch.nn.Linear(i, o), torch.nn.ReLU())
            for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        ]
        self.actor = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], a), torch.nn.Tanh())
        parameters = [*self.encoder.parameters(), *self.actor.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
        self.updates = torch.zeros((), dtype=torch.int64)

    def embed(self, context):
        rewards = context.rewards[..., None]
        parts = [context.observations, context.actions, rewards, context.next_observations]
        return self.encoder(torch.cat(parts, -1)).mean(1)

    def update(self, batch):
        self.updates += 1
        z = self.embed(batch.contexts[0])[:, None].expand(-1, batch.observations.shape[1], -1)
        noise = self.config.noise * torch.randn(batch.actions.shape, generator=self.generator)
        actions = self.actor(torch.cat([batch.observations, z], -1))
        loss = (actions - batch.actions - noise).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        broken = self.updates > self.config.breaks_after
        metrics = {"cloning_loss": torch.where(broken, torch.nan, loss.detach())}
        return metrics | ({"rare": loss.detach()} if self.updates % 3 == 0 else {})

    def adapt(self, context):
        return CloningPolicy(self.actor, self.embed(context))

    def exported(self):
        return {"encoder": self.encoder, "actor": self.actor}


class CloningPolicy(Policy):
    def __init__(self, actor, z):
        self.actor, self.z = actor, z

    def act(self, observations):
        return self.actor(torch.cat([observations, self.z], -1))
