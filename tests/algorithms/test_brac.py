"""The actor-critic that the methods share, against values worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from omrlbench.algorithms.algorithm import Problem
from omrlbench.algorithms.focal import Focal, FocalConfig
from omrlbench.testing import random_batch

PROBLEM = Problem(observation_dim=2, action_dim=2, task_dim=2, n_train_tasks=8)
SMALL = FocalConfig(latent_dim=3, encoder_width=16, width=16, meta_batch=4, batch_size=8, context_size=5)


def constant(network: nn.Module, value: float) -> None:
    """Make a network put out `value` everywhere."""
    *_, last = [layer for layer in network if not isinstance(layer, nn.ReLU)]
    last.weight.data.zero_()
    last.bias.data.fill_(value)


class ByAction(nn.Module):
    """A discriminator that puts out its first action coordinate; inputs are (s, a, z) of sizes 2, 2, 3."""

    def forward(self, inputs):
        return inputs[..., 2:3]


# ---------------------------------------------------------------- divergence


def test_discriminator_learns_the_density_ratio_of_known_distributions():
    """Policy actions are N(0.4, 0.4), data actions N(-0.4, 0.4): the divergence is 0.8^2 / (2 * 0.4^2) = 2.

    Without a penalty the learned dual form approaches it from below.
    """
    config = replace(SMALL, discriminator_penalty_weight=0.0, width=64, discriminator_learning_rate=3e-3)
    algorithm = Focal(PROBLEM, config, seed=0)
    g = torch.Generator().manual_seed(0)
    s, z = torch.zeros(512, 2), torch.zeros(512, 3)
    for _ in range(400):
        a_pi, a = (torch.randn(512, 2, generator=g) * torch.tensor([0.4, 0.0]) for _ in range(2))
        a_pi[:, 0] += 0.4
        a[:, 0] -= 0.4
        loss, divergence = algorithm.discriminator_loss(s, a_pi, a, z)
        algorithm.discriminator_optimizer.zero_grad()
        loss.backward()
        algorithm.discriminator_optimizer.step()
    assert 1.2 < divergence.item() < 2.4


def test_policy_regularisation_pulls_the_actor_towards_the_data():
    """A discriminator that grows with the first action coordinate says that the data lie at the lower end."""
    config = replace(SMALL, regularization="policy", alpha=10.0, learning_rate=1e-2, entropy_temperature=0.0)
    algorithm = Focal(PROBLEM, config, seed=0)
    constant(algorithm.critics, 0.0)
    algorithm.discriminator = ByAction()
    s, z = torch.randn(256, 2), torch.randn(256, 3)
    for _ in range(100):
        loss, _ = algorithm.actor_loss(s, torch.zeros(256, 2), z, algorithm.alpha)
        algorithm.actor_optimizer.zero_grad()
        loss.backward()
        algorithm.actor_optimizer.step()
    assert torch.tanh(algorithm.heads(s, z)[0])[:, 0].mean().item() < -0.5


# ---------------------------------------------------------------- critic target


def critic_loss_with_constants(config, terminated=0.0, alpha=1.0, q=2.0, c_out=0.0):
    """The critic loss when critics put out 0, target critics `q` and the discriminator `c_out`; rewards are 3."""
    algorithm = Focal(PROBLEM, config, seed=0)
    constant(algorithm.critics, 0.0)
    constant(algorithm.target, q)
    if algorithm.discriminator:
        constant(algorithm.discriminator, c_out)
    s, a, z = torch.randn(10, 2), torch.rand(10, 2), torch.randn(10, 3)
    r, end = torch.full((10,), 3.0), torch.full((10,), terminated)
    return algorithm.critic_loss(s, a, r, s, end, z, torch.tensor(alpha)).item()


def test_critic_target_is_reward_plus_discounted_target_value():
    config = replace(SMALL, regularization="none", entropy_temperature=0.0, discount=0.9)
    backup = 3 + 0.9 * 2  # both critics are at 0, and their squared errors are added
    assert critic_loss_with_constants(config) == pytest.approx(2 * backup**2)


def test_critic_target_stops_at_terminated_states_only():
    config = replace(SMALL, regularization="none", entropy_temperature=0.0, discount=0.9)
    assert critic_loss_with_constants(config, terminated=1.0) == pytest.approx(2 * 3**2)


@pytest.mark.parametrize(
    ("regularization", "penalised"), [("value_penalty", True), ("both", True), ("policy", False), ("none", False)]
)
def test_value_penalty_is_discounted_once(regularization, penalised):
    config = replace(SMALL, regularization=regularization, entropy_temperature=0.0, discount=0.9)
    log_ratio = math.log(math.log(1 + math.exp(0.7)))
    backup = 3 + 0.9 * (2 - (1.5 * log_ratio if penalised else 0))
    assert critic_loss_with_constants(config, alpha=1.5, c_out=0.7) == pytest.approx(2 * backup**2, rel=1e-5)


def test_released_value_network_target_by_hand():
    """Target r + gamma (V - alpha d(s)), d at the current state: both discriminator terms are at output 0."""
    released = {"critic_target": "value_network", "value_penalty_at": "state", "regularization": "both"}
    config = replace(SMALL, discount=0.9, **released)
    d = math.log(math.log(2)) - math.log(2) + 1
    backup = 3 + 0.9 * (2 - 1.5 * d)
    assert critic_loss_with_constants(config, alpha=1.5) == pytest.approx(2 * backup**2, rel=1e-5)


def test_released_value_network_learns_the_soft_value():
    algorithm = Focal(PROBLEM, replace(SMALL, critic_target="value_network"), seed=0)
    constant(algorithm.value, 1.0)
    loss = algorithm.value_loss(torch.zeros(4, 2), torch.zeros(4, 3), torch.full((4,), 3.0))
    assert loss.item() == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"meta_batch": 1}, "meta_batch must be at least 2"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0, not -1.0"),
        ({"discount": 1.5}, "discount must be between 0 and 1"),
        ({"min_log_std": 3.0}, "min_log_std must be below max_log_std"),
    ],
)
def test_impossible_values_are_refused_in_one_line(value, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **value)


def test_reward_scale_multiplies_rewards_only():
    config = replace(SMALL, regularization="none", entropy_temperature=0.0, discount=0.9, reward_scale=5.0)
    assert critic_loss_with_constants(config) == pytest.approx(2 * (15 + 1.8) ** 2)


# ---------------------------------------------------------------- alpha


def alpha_after(mode, divergence, updates=100):
    config = replace(SMALL, alpha=1.0, alpha_mode=mode, alpha_step=0.1, alpha_max=2.0, divergence_target=0.05)
    algorithm = Focal(PROBLEM, config, seed=0)
    for _ in range(updates):
        algorithm.update_alpha(torch.tensor(divergence))
    return algorithm.alpha.item()


def test_alpha_modes():
    assert alpha_after("fixed", 0.95) == 1.0
    assert alpha_after("adaptive", 0.95) == 2.0  # no wind-up beyond alpha_max
    assert alpha_after("adaptive", -0.95) == 0.0
    assert alpha_after("released", 0.95) == pytest.approx(1 + 100 * 0.1 * 0.9)  # winds up


# ---------------------------------------------------------------- every choice


@pytest.mark.parametrize("divergence", ["kl", "w", "mmd"])
@pytest.mark.parametrize("regularization", ["value_penalty", "policy", "both", "none"])
def test_every_regularisation_with_every_divergence_updates(regularization, divergence):
    at = "state" if divergence == "mmd" else "next_state"
    config = replace(SMALL, regularization=regularization, divergence=divergence, value_penalty_at=at)
    algorithm = Focal(PROBLEM, config, seed=0)
    learned = regularization != "none" and divergence != "mmd"
    assert algorithm.transitions_per_task == 8 * (3 if learned else 1)
    metrics = algorithm.update(random_batch(algorithm))
    assert all(math.isfinite(value) for value in metrics.values())
    assert ("discriminator_loss" in metrics) == learned and ("divergence" in metrics) == (regularization != "none")


@pytest.mark.parametrize("divergence", ["kl", "w", "mmd"])
def test_every_divergence_pulls_the_policy_to_the_data(divergence):
    """Rewards are zero everywhere, so that nothing but the divergence moves the policy; the data's actions are -0.5."""
    config = replace(
        SMALL,
        regularization="policy",
        divergence=divergence,
        alpha=300.0 if divergence == "mmd" else 10.0,  # whose kernel is so wide that its slope is small
        entropy_temperature=0.0,
        learning_rate=3e-3,
        discriminator_learning_rate=1e-2,
        discriminator_penalty_weight=5.0 if divergence == "w" else 0.1,
        reward_scale=0.0,
    )
    algorithm = Focal(PROBLEM, config, seed=0)
    means = []
    for k in range(250):
        batch = random_batch(algorithm, seed=k)
        algorithm.update(replace(batch, actions=torch.full_like(batch.actions, -0.5)))
        means.append(algorithm.adapt(batch.contexts[0]).act(batch.observations[:, 0]).mean().item())
    assert sum(means[-100:]) / 100 == pytest.approx(-0.5, abs=0.2)  # around which w swings


def test_mmd_compares_with_the_data_so_its_value_penalty_is_at_the_state():
    with pytest.raises(ValueError, match="value_penalty_at must be state with divergence mmd"):
        replace(SMALL, divergence="mmd", regularization="both")
