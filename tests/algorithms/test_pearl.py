"""PEARL: what it explores with, and what it samples at test."""

from dataclasses import replace

import pytest
import torch

from omrlbench.algorithms.networks import squash
from omrlbench.algorithms.pearl import Pearl, context_noise
from omrlbench.config import resolve
from omrlbench.testing import PROBLEM, SMALL, random_context

VALUES = SMALL | {"width": 16, "encoder_width": 16, "latent_dim": 3}


@pytest.fixture
def algorithm():
    return Pearl(PROBLEM, Pearl.Config(**VALUES), seed=0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_it_adapts_to_a_sample_of_the_posterior_of_its_own_in_every_context(algorithm):
    """Over many contexts z is as far from the posterior's mean as its standard deviation says."""
    context = random_context(PROBLEM, tasks=4000, size=5)
    mean, variance = algorithm.posterior(context)
    standard = (algorithm.adapt(context).z - mean) / variance.sqrt()
    assert standard.mean().item() == pytest.approx(0, abs=0.05)
    assert standard.std().item() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(torch.corrcoef(standard.T), torch.eye(3), atol=0.06, rtol=0)


def test_the_sample_depends_on_the_context_and_not_on_its_order():
    context = random_context(PROBLEM, tasks=2, size=5)
    noise = context_noise(context, 3)
    other = random_context(PROBLEM, tasks=2, size=5, seed=1)
    assert not torch.equal(noise[0], noise[1]) and not torch.equal(noise, context_noise(other, 3))
    assert torch.equal(noise, context_noise(replace(context, actions=context.actions.flip(1)), 3))
    assert torch.equal(noise[:1], context_noise(random_context(PROBLEM, tasks=2, size=5), 3)[:1])


def test_the_first_episodes_act_by_the_actor_s_samples_given_a_sample_of_the_prior(algorithm):
    observations, draws = torch.randn(4, 3), generator()
    actions = algorithm.explore(4, None, generator()).act(observations)
    z = torch.randn(4, 3, generator=draws)
    mean, log_std = algorithm.heads(observations, z)
    torch.testing.assert_close(actions, squash(mean, log_std, torch.randn(4, 2, generator=draws))[0])


def test_later_episodes_act_given_a_sample_of_the_posterior(algorithm):
    observations, draws = torch.randn(4, 3), generator()
    context = random_context(PROBLEM, tasks=4, size=5)
    actions = algorithm.explore(4, context, generator()).act(observations)
    mean, variance = algorithm.posterior(context)
    z = mean + variance.sqrt() * torch.randn(4, 3, generator=draws)
    mean, log_std = algorithm.heads(observations, z)
    torch.testing.assert_close(actions, squash(mean, log_std, torch.randn(4, 2, generator=draws))[0])


def test_exploring_draws_other_noise_at_every_step(algorithm):
    policy, observations = algorithm.explore(4, None, generator()), torch.zeros(4, 3)
    assert not torch.equal(policy.act(observations), policy.act(observations))


def test_the_actor_s_loss_by_hand(algorithm, monkeypatch):
    """With Q = 3 and heads (0.5, -1): T log pi - 3 + 2e-4 (0.25 + 1)."""
    heads = torch.full((4, 5, 2), 0.5), torch.full((4, 5, 2), -1.0)
    monkeypatch.setattr(algorithm, "heads", lambda s, z: heads)
    monkeypatch.setattr(algorithm, "sample_action", lambda *_: (torch.zeros(4, 5, 2), torch.full((4, 5), 1.5)))
    monkeypatch.setattr(
        "omrlbench.algorithms.brac.q_values", lambda *_: torch.tensor([3.0, 7.0])[:, None, None].expand(2, 4, 5)
    )
    loss, _ = algorithm.actor_loss(torch.zeros(4, 5, 3), torch.zeros(4, 5, 2), torch.zeros(4, 3), torch.tensor(1.0))
    assert loss.item() == pytest.approx(0.2 * 1.5 - 3 + 2e-4 * 1.25)


@pytest.mark.parametrize(
    "env, scale, kl_weight",
    [("cheetah_vel", 5, 0.1), ("walker_params", 5, 0.1), ("sparse_point_robot", 100, 1), ("point_robot", 100, 1)],
)
def test_weights_stand_beside_rewards_as_in_the_released_program(env, scale, kl_weight):
    """There rewards are multiplied by 5 or 100; squared errors then grow by its square.

    The dense point robot has the sparse one's prior here, a deviation: 0.1 in place of 1 there.
    """
    values = resolve(env, "pearl", budget="paper").algorithm
    assert values.entropy_temperature == pytest.approx(1 / scale)
    assert values.kl_weight == pytest.approx(kl_weight / scale**2)
    assert values.head_penalty == pytest.approx(1e-3 / scale)
