"""FOCAL against values worked out by hand; the released program's values are those of its published code."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from omrlbench.algorithms.algorithm import Context, MetaBatch, Problem
from omrlbench.algorithms.focal import (
    Focal,
    FocalConfig,
    dual_kl,
    gradient_penalty,
    metric_loss,
    output_penalty,
    released_metric_loss,
)

FIELDS = FocalConfig.__dataclass_fields__
RELEASED = {key: value for key, value in Focal.presets["released-code"].items() if key in FIELDS}
PROBLEM = Problem(observation_dim=2, action_dim=2, task_dim=2, n_train_tasks=8)
SMALL = FocalConfig(latent_dim=3, encoder_width=16, width=16, meta_batch=4, batch_size=8, context_size=5)


def random_context(n=4, k=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Context(*(torch.randn(n, k, *d, generator=g) for d in ((2,), (2,), (), (2,))))


def random_batch(config, n=4, draws=3, terminated=0.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    b = config.batch_size * draws
    return MetaBatch(
        observations=torch.randn(n, b, 2, generator=g),
        actions=torch.rand(n, b, 2, generator=g) * 2 - 1,
        rewards=torch.randn(n, b, generator=g),
        next_observations=torch.randn(n, b, 2, generator=g),
        terminated=torch.full((n, b), terminated),
        contexts=(random_context(n, seed=1), random_context(n, seed=2)),
    )


def constant(network: nn.Module, value: float) -> None:
    """Make a network put out `value` everywhere."""
    *_, last = [layer for layer in network if not isinstance(layer, nn.ReLU)]
    last.weight.data.zero_()
    last.bias.data.fill_(value)


def parameters(module):
    return [p.detach().clone() for p in module.parameters()]


def equal(before, module):
    return all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


# ---------------------------------------------------------------- metric loss


def test_metric_loss_of_two_tasks_by_hand():
    first = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    second = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    # d2 of the same task: (0.25 + 0.25) / 2 = 0.25 and (0 + 1) / 2 = 0.5, mean 0.375
    # d2 of different tasks: (1 + 0) / 2 = 0.5 and (0.25 + 0.25) / 2 = 0.25
    expected = 0.375 + (1 / 0.6 + 1 / 0.35) / 2
    assert metric_loss(first, second, beta=1.0, epsilon=0.1).item() == pytest.approx(expected)


def test_metric_terms_are_equal_at_distance_one_half_without_epsilon():
    first, second = torch.zeros(2, 5), torch.full((2, 5), 0.5)
    total = metric_loss(first, second, beta=1.0, epsilon=0.0).item()
    assert total == pytest.approx(0.25 + 4.0)


def test_metric_loss_does_not_depend_on_the_latent_size():
    narrow = metric_loss(torch.zeros(3, 2), torch.full((3, 2), 0.7), 1.0, 0.1)
    wide = metric_loss(torch.zeros(3, 20), torch.full((3, 20), 0.7), 1.0, 0.1)
    torch.testing.assert_close(narrow, wide)


@pytest.mark.parametrize(
    ("offset", "same", "expected"),
    [(0.5, False, 2.857), (0.5, True, 0.501), (2.0, False, 0.2439), (math.sqrt(2), False, 0.4762)],
)
def test_released_metric_loss_of_one_pair(offset, same, expected):
    z = torch.stack([torch.zeros(5), torch.full((5,), offset)])
    loss = released_metric_loss(z, torch.tensor([0, 0 if same else 1]))
    assert loss.item() == pytest.approx(expected, rel=2e-3)


def test_released_weighted_loss_starts_near_one_hundred():
    config = FocalConfig(**RELEASED)
    algorithm = Focal(PROBLEM, config, seed=0)
    loss, _ = algorithm.metric_loss((random_context(16), random_context(16)))
    assert 99.99 <= config.metric_weight * loss.item() <= 100.0


def test_released_metric_loss_has_no_attraction_among_distinct_tasks():
    z = torch.zeros(16, 5)
    assert released_metric_loss(z, torch.arange(16)).item() == pytest.approx(10 * 120 / 120.001)


# ---------------------------------------------------------------- divergence


class ByAction(nn.Module):
    """A discriminator that puts out its first action coordinate; inputs are (s, a, z) of sizes 2, 2, 3."""

    def forward(self, inputs):
        return inputs[..., 2:3]


@pytest.mark.parametrize(("c_pi", "c_data", "expected"), [(0.0, 0.0, -0.05966), (1.0, -1.0, 0.95925)])
def test_dual_kl_values(c_pi, c_data, expected):
    s, z = torch.zeros(1, 2), torch.zeros(1, 3)
    d = dual_kl(ByAction(), s, torch.tensor([[c_pi, 0.0]]), torch.tensor([[c_data, 0.0]]), z)
    assert d.item() == pytest.approx(expected, abs=1e-5)


def test_dual_kl_is_zero_where_the_density_ratio_is_one():
    a = torch.tensor([[0.541325, 0.0]])
    d = dual_kl(ByAction(), torch.zeros(1, 2), a, a, torch.zeros(1, 3))
    assert d.item() == pytest.approx(0.0, abs=1e-6)


def test_dual_kl_stays_finite_far_from_the_data():
    a = torch.tensor([[-200.0, 0.0]], requires_grad=True)
    d = dual_kl(ByAction(), torch.zeros(1, 2), a, torch.zeros(1, 2), torch.zeros(1, 3))
    d.sum().backward()
    assert d.item() == pytest.approx(-200 - math.log(2) + 1) and a.grad[0, 0].item() == 1.0


def test_released_output_penalty():
    s, z = torch.zeros(1, 2), torch.zeros(1, 3)
    assert 5 * output_penalty(ByAction(), s, torch.tensor([[1.5, 0.0]]), z).item() == pytest.approx(1.25, abs=1e-4)
    assert output_penalty(ByAction(), s, torch.tensor([[-1.0, 0.0]]), z).item() == pytest.approx(0.0, abs=1e-12)


def test_gradient_penalty_of_a_one_unit_discriminator():
    network = nn.Sequential(nn.Linear(7, 1), nn.ReLU(), nn.Linear(1, 1))
    network[0].weight.data[:] = torch.tensor([9.0, 9.0, 3.0, 4.0, 9.0, 9.0, 9.0])
    network[0].bias.data.fill_(1.0)  # the unit is active at the origin
    network[2].weight.data.fill_(1.0)
    penalty = gradient_penalty(network, torch.zeros(6, 2), torch.zeros(6, 2), torch.zeros(6, 3))
    assert penalty.item() == pytest.approx((5 - 1) ** 2, rel=1e-4)  # the norm over the action (3, 4) is 5


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


# ---------------------------------------------------------------- critic target


def critic_loss_with_constants(config, terminated=0.0, alpha=1.0, q=2.0, c_out=0.0):
    """The critic loss when critics put out 0, target critics `q` and the discriminator `c_out`; rewards are 3."""
    algorithm = Focal(PROBLEM, config, seed=0)
    constant(algorithm.critics, 0.0)
    constant(algorithm.target, q)
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


# ---------------------------------------------------------------- gradient flow


@pytest.mark.parametrize("preset", [{}, RELEASED])
def test_only_the_metric_loss_changes_the_encoder(preset):
    config = replace(SMALL, **(preset | {"metric_weight": 0.0, "latent_dim": 3, "width": 16}))
    algorithm = Focal(PROBLEM, config, seed=0)
    encoder, actor, critics = (parameters(m) for m in (algorithm.encoder, algorithm.actor, algorithm.critics))
    discriminator = parameters(algorithm.discriminator)
    algorithm.update(random_batch(config))
    assert equal(encoder, algorithm.encoder)
    assert not equal(actor, algorithm.actor) and not equal(critics, algorithm.critics)
    assert not equal(discriminator, algorithm.discriminator)


def test_the_metric_loss_changes_the_encoder_and_nothing_else():
    algorithm = Focal(PROBLEM, SMALL, seed=0)
    loss, _ = algorithm.metric_loss((random_context(seed=1), random_context(seed=2)))
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in algorithm.encoder.parameters())
    for module in (algorithm.actor, algorithm.critics, algorithm.discriminator):
        assert all(p.grad is None for p in module.parameters())


def test_policy_regularisation_pulls_the_actor_towards_the_data():
    """A discriminator that grows with the first action coordinate says that the data lie at the lower end."""
    config = replace(SMALL, regularization="policy", alpha=10.0, learning_rate=1e-2, entropy_temperature=0.0)
    algorithm = Focal(PROBLEM, config, seed=0)
    constant(algorithm.critics, 0.0)
    algorithm.discriminator = ByAction()
    s, z = torch.randn(256, 2), torch.randn(256, 3)
    for _ in range(100):
        loss, _ = algorithm.actor_loss(s, z, algorithm.alpha)
        algorithm.actor_optimizer.zero_grad()
        loss.backward()
        algorithm.actor_optimizer.step()
    assert torch.tanh(algorithm.heads(s, z)[0])[:, 0].mean().item() < -0.5


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


# ---------------------------------------------------------------- adaptation and presets


def test_embedding_is_the_mean_of_bounded_codes_in_any_order():
    algorithm = Focal(PROBLEM, SMALL, seed=0)
    context = random_context()
    order = torch.randperm(5)
    shuffled = Context(*(getattr(context, f)[:, order] for f in context.__dataclass_fields__))
    z = algorithm.embed(context)
    assert z.shape == (4, 3) and z.abs().max() < 1
    torch.testing.assert_close(z, algorithm.embed(shuffled))


def test_adapt_gives_bounded_actions_and_leaves_the_learner_alone():
    algorithm = Focal(PROBLEM, SMALL, seed=0)
    before = {name: repr(value) for name, value in algorithm.state_dict().items()}
    policy = algorithm.adapt(random_context())
    actions = policy.act(torch.randn(4, 2))
    assert actions.shape == (4, 2) and actions.abs().max() <= 1 and not actions.requires_grad
    assert before == {name: repr(value) for name, value in algorithm.state_dict().items()}


def test_adapt_refuses_empty_and_non_finite_contexts():
    algorithm = Focal(PROBLEM, SMALL, seed=0)
    context = random_context()
    with pytest.raises(ValueError, match="rewards hold NaN"):
        algorithm.adapt(replace(context, rewards=context.rewards * float("nan")))
    with pytest.raises(ValueError, match="n, k > 0"):
        Context(*(getattr(context, f)[:, :0] for f in context.__dataclass_fields__))


@pytest.mark.parametrize("regularization", ["value_penalty", "policy", "both", "none"])
def test_every_regularisation_updates(regularization):
    config = replace(SMALL, regularization=regularization)
    algorithm = Focal(PROBLEM, config, seed=0)
    batch = random_batch(config, draws=algorithm.transitions_per_task // config.batch_size)
    metrics = algorithm.update(batch)
    assert all(math.isfinite(value) for value in metrics.values())
    assert ("discriminator_loss" in metrics) == (regularization != "none")


def test_updates_repeat_bitwise_and_resume_bitwise():
    def fresh():
        return Focal(PROBLEM, SMALL, seed=3)

    whole, first = fresh(), fresh()
    batches = [random_batch(SMALL, seed=k) for k in range(4)]
    for batch in batches:
        whole.update(batch)
    for batch in batches[:2]:
        first.update(batch)
    second = Focal(PROBLEM, SMALL, seed=99)
    second.load_state_dict(first.state_dict())
    for batch in batches[2:]:
        second.update(batch)
    torch.testing.assert_close(whole.state_dict(), second.state_dict(), rtol=0, atol=0)
