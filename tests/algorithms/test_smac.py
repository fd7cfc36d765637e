"""SMAC's offline phase against values worked out by hand."""

from dataclasses import replace

import pytest
import torch

from omrlbench.algorithms.networks import squashed_log_density
from omrlbench.algorithms.smac import SMACOffline
from omrlbench.testing import PROBLEM, SMALL, random_batch

VALUES = SMALL | {"width": 16, "encoder_width": 16, "latent_dim": 3}


@pytest.fixture
def algorithm():
    return SMACOffline(PROBLEM, SMACOffline.Config(**VALUES), seed=0)


def constant(network, *values):
    """The network says `values` whatever it is given."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network[-1].bias.copy_(torch.tensor(values).reshape(network[-1].bias.shape))


def test_logged_actions_count_by_the_softmax_of_their_advantages(algorithm, monkeypatch):
    """Advantages 0 and 20 log 3 at temperature 20 weigh a quarter and three quarters."""
    batch = random_batch(algorithm)
    s, a = batch.observations[0, :2], batch.actions[0, :2]
    z = torch.zeros(2, 3)
    logged = torch.tensor([1.0, 1.0 + 20 * torch.tensor(3.0).log()])

    def q_values(critics, states, actions, codes):
        return torch.stack([logged, logged + 5]) if actions is a else torch.ones(2, 2)

    monkeypatch.setattr("omrlbench.algorithms.smac.q_values", q_values)
    loss, parts = algorithm.actor_loss(s, a, z, algorithm.alpha)
    density = squashed_log_density(*algorithm.heads(s, z), a)
    torch.testing.assert_close(loss, -(0.25 * density[0] + 0.75 * density[1]))
    torch.testing.assert_close(parts["advantage"], logged - 1)


def test_the_encoder_learns_from_the_decoders_error_and_the_prior(algorithm):
    """A decoder that says 2 where rewards are 0 and 1 is wrong by (4 + 1) / 2."""
    constant(algorithm.decoder, 2.0)
    batch = random_batch(algorithm)
    rewards = torch.arange(batch.rewards.numel()).reshape(batch.rewards.shape) % 2.0
    _, loss, metrics = algorithm.infer(replace(batch, rewards=rewards))
    assert metrics["decoder_loss"].item() == pytest.approx(2.5)
    mean, variance = algorithm.posterior(batch.contexts[0])
    kl = 0.5 * (variance + mean.square() - 1 - variance.log()).sum()
    torch.testing.assert_close(loss, 2.5 + 0.1 * kl)


def test_decoded_rewards_are_those_of_each_tasks_own_embedding(algorithm):
    batch = random_batch(algorithm)
    z = torch.randn(len(batch.tasks), 3)
    together = algorithm.decoded_rewards(batch.observations, batch.actions, z)
    one = algorithm.decoder(torch.cat([batch.observations[1, :1], batch.actions[1, :1], z[1:2]], -1))
    assert together.shape == batch.rewards.shape
    torch.testing.assert_close(together[1, 0], one[0, 0])


def test_an_update_learns_to_tell_rewards(algorithm):
    batch = random_batch(algorithm)
    first = algorithm.update(batch)["decoder_loss"]
    for _ in range(200):
        last = algorithm.update(batch)["decoder_loss"]
    assert last < 0.7 * first
