"""RAC's critics, actor and rollouts against values worked out by hand."""

import math
from dataclasses import asdict, replace

import pytest
import torch

from omrlbench.algorithms import rac
from omrlbench.algorithms.networks import squashed_log_density
from omrlbench.algorithms.rac import RAC, pre_tanh_kl
from omrlbench.config import resolve
from omrlbench.testing import PROBLEM, SMALL, check_algorithm, random_batch

EVALUATED = replace(PROBLEM, evaluated_tasks=(2, 5))  # two tasks, three observation and two action dimensions
SIZES = SMALL | {"task_width": 16, "model_width": 16, "model_layers": 2, "members": 3, "elites": 2, "rollout_length": 2}


def fresh(**changes):
    return RAC(EVALUATED, RAC.Config(**SIZES | changes), seed=0)


def columns(algorithm, stage="train", **changes):
    """s, a, r, s' and the ends of a batch of `stage`."""
    algorithm.stage = stage
    batch = replace(random_batch(algorithm), **changes)
    return batch.observations, batch.actions, batch.rewards, batch.next_observations, batch.terminated


# ---------------------------------------------------------------- rollouts


def test_rollouts_go_on_from_where_the_models_lead(monkeypatch, put_out):
    """Every step adds (1, 2, 3), earns 4 and ends with probability 1/2; three steps from two states of each task."""
    algorithm = fresh(rollout_length=3)
    monkeypatch.setattr(algorithm, "noise", lambda *shape: torch.zeros(shape))
    models = algorithm.models
    models.shift[:], models.scale[:] = torch.tensor([1.0, 2.0, 3.0, 4.0]), 1.0
    put_out(models.network, *[0.0] * 9)
    start = torch.randn(2, 2, 3)
    s, a, r, s_next, end = algorithm.roll_out(start)
    step = torch.tensor([1.0, 2.0, 3.0])
    for k in range(3):
        torch.testing.assert_close(s[:, 2 * k : 2 * k + 2], start + k * step)
    torch.testing.assert_close(s_next, s + step)
    torch.testing.assert_close(a, algorithm.act(s))
    assert r.eq(4).all() and end.eq(0.5).all() and s.shape == (2, 6, 3)


# ---------------------------------------------------------------- critics


def test_critic_loss_on_a_table(monkeypatch):
    """Q is 2 at logged and 5 at rolled out states, 1 higher in the second critic; Q_target is 3 and 4, so 3 counts.

    With gamma = 1/2, r = 1: logged transitions go on, y = 2.5, errors 0.5 and 0.5; rolled out ones end, y = 1, errors 4
    and 5. f = 3/4, beta = 2.
    """
    algorithm = fresh(discount=0.5, data_fraction=0.75, conservative_weight=2.0)

    def table(critics, s, a):
        if critics is algorithm.critic_target:
            return torch.stack([torch.full(s.shape[:2], 3.0), torch.full(s.shape[:2], 4.0)])
        q = torch.where(s[..., 0] > 0, 5.0, 2.0)
        return torch.stack([q, q + 1])

    monkeypatch.setattr(rac, "twin_q", table)
    _, a, r, s_next, _ = columns(algorithm)
    data = (-torch.ones(2, 8, 3), a, torch.ones_like(r), s_next, torch.zeros_like(r))
    rollouts = (torch.ones(2, 6, 3), a[:, :6], torch.ones(2, 6), s_next[:, :6], torch.ones(2, 6))
    bellman = [0.75 * 0.25 + 0.25 * 16, 0.75 * 0.25 + 0.25 * 25]
    per_task = sum(2 * (5 - 2) + 0.5 * error for error in bellman)
    assert algorithm.critic_loss(data, rollouts).item() == pytest.approx(2 * per_task)


def test_half_an_end_halves_the_future(put_out):
    algorithm = fresh(discount=0.5, conservative_weight=0.0)
    put_out(algorithm.critics, 0.0)
    put_out(algorithm.critic_target, 4.0)
    s, a, r, s_next, _ = columns(algorithm)
    transitions = (s, a, torch.zeros_like(r), s_next, torch.full_like(r, 0.5))  # y = 0.5 * 0.5 * 4 = 1
    assert algorithm.critic_loss(transitions, transitions).item() == pytest.approx(2 * 2 * 0.5)


# ---------------------------------------------------------------- actor


def test_kl_of_gaussians_before_tanh_by_hand():
    """KL(N(1, 1) || N(0, 4)) = log 2 + (1 + 1) / 8 - 1/2, twice."""
    mean, log_std = torch.ones(1, 1, 2), torch.zeros(1, 1, 2)
    found = pre_tanh_kl(mean, log_std, torch.zeros(1, 1, 2), torch.full((1, 1, 2), math.log(2)))
    assert found.item() == pytest.approx(2 * (math.log(2) + 0.25 - 0.5))


def test_actor_loss_by_hand(put_out):
    """Q = 2, policies N(0, 1), meta-policy N(1, 1): a divergence of 1/2 in each of two dimensions."""
    algorithm = fresh(meta_policy="random", alpha=0.25, regularization_weight=3.0, entropy_temperature=0.0)
    put_out(algorithm.critics, 2.0)
    put_out(algorithm.actors, 0.0, 0.0, 0.0, 0.0)
    put_out(algorithm.meta_policy, 1.0, 1.0, 0.0, 0.0)
    s, a, *_ = columns(algorithm)
    loss, parts = algorithm.actor_loss(s, a, s[:, :6])
    likelihood = squashed_log_density(torch.zeros(2, 8, 2), torch.zeros(2, 8, 2), a).mean()
    torch.testing.assert_close(parts["log_likelihood"], likelihood)
    assert parts["divergence"].item() == pytest.approx(1.0)
    assert loss.item() == pytest.approx(2 * (-2 - 3 * 0.25 * likelihood.item() + 3 * 0.75 * 1.0), rel=1e-5)


def test_the_divergence_is_that_of_the_policies_from_the_meta_policy(put_out):
    """KL(N(0, 4) || N(1, 1)) = 5/2 - 1/2 - log 2 in each of two dimensions; the other way round it is 0.44."""
    algorithm = fresh(meta_policy="random")
    put_out(algorithm.actors, 0.0, 0.0, math.log(2), math.log(2))
    put_out(algorithm.meta_policy, 1.0, 1.0, 0.0, 0.0)
    s, a, *_ = columns(algorithm)
    _, parts = algorithm.actor_loss(s, a, s[:, :6])
    assert parts["divergence"].item() == pytest.approx(2 * (2 - math.log(2)))


def test_elites_are_judged_by_transitions_before_they_are_learned_from():
    algorithm = fresh()
    transitions = columns(algorithm, "models")
    algorithm.learn(*transitions)
    models = algorithm.models
    expected = models.error.lerp(models.loss(*transitions).detach(), 0.02)
    algorithm.learn(*transitions)
    torch.testing.assert_close(models.error, expected)
    assert models.error.unique().numel() == models.error.numel()


def test_entropy_is_rewarded(put_out):
    first, second = (fresh(entropy_temperature=temperature) for temperature in (0.0, 1.0))
    s, a, *_ = columns(first)
    for algorithm in (first, second):
        put_out(algorithm.actors, 0.0, 0.0, 0.0, 0.0)
        put_out(algorithm.critics, 0.0)
    noise = torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(3))
    for algorithm in (first, second):
        algorithm.noise = lambda *shape: noise
    log_pi = squashed_log_density(torch.zeros(2, 8, 2), torch.zeros(2, 8, 2), noise.tanh())
    difference = second.actor_loss(s, a, s)[0] - first.actor_loss(s, a, s)[0]
    torch.testing.assert_close(difference, log_pi.mean(1).sum(), rtol=1e-4, atol=1e-3)


def test_without_a_meta_policy_alpha_is_one_and_combo_ignores_the_logged_actions():
    assert fresh().alpha.tolist() == [1.0, 1.0] and fresh(meta_policy="random").alpha.tolist() == pytest.approx(
        [0.4] * 2
    )
    for weight, same in ((0.0, True), (1.0, False)):
        losses = []
        for sign in (1, -1):
            algorithm = fresh(regularization_weight=weight)
            s, a, *_ = columns(algorithm)
            losses.append(algorithm.actor_loss(s, sign * a, s)[0].item())
        assert (losses[0] == losses[1]) == same


# ---------------------------------------------------------------- what learns


@pytest.mark.parametrize("meta_policy", ["none", "random"])
def test_each_loss_reaches_its_own_networks(meta_policy, reached_by):
    algorithm = fresh(meta_policy=meta_policy)
    transitions = columns(algorithm, "models")
    algorithm.models.standardize(transitions[0], transitions[2], transitions[3], pooled=False)
    assert reached_by(algorithm, algorithm.model_loss(*transitions)[0]) == {"models"}
    data = columns(algorithm)
    rollouts = algorithm.roll_out(data[0][:, :4])
    assert reached_by(algorithm, algorithm.critic_loss(data, rollouts)) == {"critics"}
    with rac.frozen(algorithm.critics):
        assert reached_by(algorithm, algorithm.actor_loss(data[0], data[1], rollouts[0])[0]) == {"actors"}


def test_each_stage_moves_its_own_networks(moved_by):
    algorithm = fresh(meta_policy="random")
    assert moved_by(algorithm, "models") == {"models"}
    assert moved_by(algorithm, "train") == {"critics", "critic_target", "actors"}


def test_every_member_learns_from_transitions_of_its_own():
    algorithm = fresh()
    algorithm.stage = "models"
    assert algorithm.transitions_per_task == 3 * 8
    algorithm.stage = "train"
    assert algorithm.transitions_per_task == 8


def test_a_task_learns_from_its_own_data_whatever_the_order_of_the_batch():
    first, second = fresh(), fresh()
    for stage in ("models", "train"):
        for algorithm in (first, second):
            algorithm.stage = stage
        batch = random_batch(first)
        names = ("tasks", "observations", "actions", "rewards", "next_observations", "terminated")
        first.update(batch)
        second.update(replace(batch, **{name: getattr(batch, name).flip(0) for name in names}))
    for name in ("models", "critics", "actors"):
        for a, b in zip(getattr(first, name).parameters(), getattr(second, name).parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_a_task_learns_as_if_it_were_alone():
    """Other data in the second task leave the first one's networks as they are, to the bit."""
    first, second = fresh(), fresh()
    for stage in ("models", "models", "train", "train"):
        for algorithm in (first, second):
            algorithm.stage = stage
        batch = random_batch(first)
        other = batch.tasks[:, None] == 1
        first.update(batch)
        rewards = torch.where(other, batch.rewards + 5, batch.rewards)
        second.update(
            replace(batch, actions=torch.where(other[..., None], -batch.actions, batch.actions), rewards=rewards)
        )
    for name, own in (("models", slice(0, 3)), ("critics", slice(0, None, 2)), ("actors", slice(0, 1))):
        pairs = list(zip(getattr(first, name).parameters(), getattr(second, name).parameters(), strict=True))
        assert all(torch.equal(p[own], q[own]) for p, q in pairs), name
        assert not any(torch.equal(p, q) for p, q in pairs), name


def test_the_policy_comes_to_act_as_the_data_where_values_say_nothing():
    algorithm = fresh(task_learning_rate=1e-2, regularization_weight=10.0)
    batch = random_batch(algorithm)
    wanted = torch.tensor([0.5, -0.5]).expand(2, 8, 2)
    batch = replace(batch, actions=wanted, rewards=torch.zeros(2, 8))
    for _ in range(150):
        algorithm.update(batch)
    assert (algorithm.act(batch.observations) - wanted).abs().max() < 0.1


@pytest.mark.parametrize("values", [{}, {"meta_policy": "random"}, {"regularization_weight": 0.0}])
def test_contract(values):
    check_algorithm(RAC, RAC.Config(**SIZES | values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"elites": 4}, "members must be at least elites, 4, not 3"),
        ({"rollout_length": 9}, "rollout_length must be between 1 and batch_size, 8, not 9"),
        ({"alpha": 1.5}, "alpha must be between 0 and 1, not 1.5"),
        ({"conservative_weight": -1.0}, "conservative_weight must be at least 0, not -1.0"),
    ],
)
def test_impossible_values_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        RAC.Config(**SIZES | changes)


@pytest.mark.parametrize("budget", ["smoke", "cpu", "paper"])
@pytest.mark.parametrize(
    "env", ["sparse_point_robot", "cheetah_vel", "walker_params", "ant_fwd_back", "cheetah_fwd_back"]
)
def test_the_comparison_of_meta_policies_changes_nothing_else(env, budget):
    """A random meta-policy has all values that a learned one has."""
    learned, random = (asdict(resolve(env, algo, budget=budget).algorithm) for algo in ("rac", "rac_random"))
    assert {key: (learned[key], value) for key, value in random.items() if learned[key] != value} == {
        "meta_policy": ("learned", "random")
    }
