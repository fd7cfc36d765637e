"""MBML's relabelling, triplet loss and distillation on tasks made by hand."""

import math
from dataclasses import replace

import pytest
import torch

from omrlbench.algorithms.algorithm import Context, Problem
from omrlbench.algorithms.mbml import MBML
from omrlbench.testing import random_batch, random_context

PROBLEM = Problem(observation_dim=2, action_dim=1, task_dim=1, n_train_tasks=3)
STANDARDIZED = replace(PROBLEM, observation_mean=torch.zeros(2), observation_scale=torch.ones(2))
SIZES = {"meta_batch": 2, "batch_size": 8, "context_size": 4, "teacher_batch_size": 8, "ensemble_batch_size": 8}
SMALL = MBML.Config(
    **SIZES, teacher_width=16, ensemble_width=8, ensemble_size=4, latent_dim=2, encoder_width=16, width=16
)


def mbml(problem=PROBLEM, **changes):
    return MBML(problem, replace(SMALL, **changes), seed=0)


def predict(algorithm, outputs):
    """Make every member of the ensembles put out its row of `outputs` (tasks, members, predicted) everywhere."""
    last = algorithm.ensembles[-1]
    last.weight.data.zero_()
    last.bias.data[:] = torch.tensor(outputs).flatten(0, 1)[:, None]


def factors(mean, variance):
    """What an encoder of one latent dimension says of transitions with these factors."""
    return torch.tensor([mean, math.log(math.expm1(variance))])


# ---------------------------------------------------------------- relabelling


def test_the_ensembles_mean_relabels_where_its_members_agree():
    """Over rewards 1, 1, 2, 2 the standard deviation is sqrt(1/3) = 0.577, over four equal ones it is 0."""
    outputs = [[[1.0], [1.0], [2.0], [2.0]], [[5.0]] * 4, [[7.0]] * 4]
    context = random_context(PROBLEM, 2, 4)
    for threshold, expected in ((0.6, True), (0.5, False)):
        algorithm = mbml(reward_threshold=threshold)
        predict(algorithm, outputs)
        relabelled, accepted = algorithm.relabel(torch.tensor([0, 2]), context)  # tasks 0 and 2 of three
        rewards = relabelled.rewards.unflatten(0, (2, 2))
        assert accepted[0, 1].eq(expected).all() and accepted[1, 0].all()
        assert not accepted[0, 0].any() and not accepted[1, 1].any()  # own ones are no candidates
        assert rewards[0, 1].eq(1.5).all() and rewards[1, 0].eq(7.0).all()
        assert torch.equal(rewards[0, 0], context.rewards[0]) and torch.equal(rewards[1, 1], context.rewards[1])
        observations = relabelled.observations.unflatten(0, (2, 2))
        assert torch.equal(observations[0, 1], context.observations[1])  # those of task j


def test_next_observations_are_relabelled_and_filtered_where_dynamics_differ():
    algorithm = mbml(STANDARDIZED, reward_threshold=1.0, next_observations_differ=True, threshold_fraction=0.1)
    agreeing, disagreeing = [[1.0, 3.0, 4.0]] * 4, [[1.0, 3.0, 4.0]] * 2 + [[1.0, 3.0, 5.0]] * 2
    predict(algorithm, [agreeing, disagreeing, agreeing])
    context = random_context(PROBLEM, 2, 4)
    relabelled, accepted = algorithm.relabel(torch.tensor([0, 1]), context)
    assert accepted[0, 1].all()
    assert not accepted[1, 0].any()  # mean over both dimensions of 0 and 0.577 is above 0.1
    s_next = relabelled.next_observations.unflatten(0, (2, 2))
    assert s_next[0, 1].tolist() == [[3.0, 4.0]] * 4 and torch.equal(s_next[0, 0], context.next_observations[0])


def test_next_observations_that_are_not_standardised_are_filtered_in_units_of_their_standard_deviation():
    """The members' standard deviations are 0 and 0.577: in units of 1 and 10 their mean is 0.029, of 1 and 2 0.144."""
    disagreeing = [[1.0, 3.0, 4.0]] * 2 + [[1.0, 3.0, 5.0]] * 2
    context = random_context(PROBLEM, 2, 4)
    for half_range, expected in ((10.0, True), (2.0, False)):
        algorithm = mbml(reward_threshold=1.0, next_observations_differ=True, threshold_fraction=0.1)
        algorithm.stage = "ensembles"
        batch = random_batch(algorithm)
        s_next = torch.tensor([[1.0, half_range], [-1.0, -half_range]]).repeat(3, 4, 1)
        algorithm.update(replace(batch, contexts=(replace(batch.contexts[0], next_observations=s_next),) * 2))
        predict(algorithm, [disagreeing] * 3)
        _, accepted = algorithm.relabel(torch.tensor([0, 1]), context)
        assert accepted[0, 1].eq(expected).all()


def test_an_unpublished_threshold_is_a_fraction_of_the_rewards_standard_deviation():
    algorithm = mbml(threshold_fraction=0.5)
    algorithm.stage = "ensembles"
    batch = random_batch(algorithm)
    rewards = torch.tensor([1.0, 3.0]).repeat(3, 4)
    algorithm.update(replace(batch, contexts=(replace(batch.contexts[0], rewards=rewards),) * 2))
    assert algorithm.label_std().tolist() == pytest.approx([1.0])
    for spread, expected in ((0.4, True), (0.6, False)):  # the members' values differ by 2 * spread * sqrt(3 / 4)
        half = spread * math.sqrt(3 / 4)
        predict(algorithm, [[[-half], [-half], [half], [half]]] * 3)
        _, accepted = algorithm.relabel(torch.tensor([0, 1]), random_context(PROBLEM, 2, 4))
        assert accepted[0, 1].eq(expected).all()


def test_missing_relabelled_transitions_are_replaced_by_spare_own_ones():
    """One latent dimension; own factors N(0, 1), accepted N(3, 1), rejected N(100, 1), spare N(-3, 1); k = 4."""
    algorithm = mbml()
    own = factors(0.0, 1.0).expand(2, 4, 2)
    spare = factors(-3.0, 1.0).expand(2, 4, 2)
    relabelled = factors(100.0, 1.0).repeat(2, 2, 4, 1)
    accepted = torch.zeros(2, 2, 4, dtype=torch.bool)
    relabelled[0, 1, :3], accepted[0, 1, :3] = factors(3.0, 1.0), True
    mean, variance = algorithm.extended_posterior(own, spare, relabelled, accepted)
    assert mean.flatten().tolist() == pytest.approx([(3 * 3 - 3) / 8, -4 * 3 / 8], abs=1e-5)
    assert variance.flatten().tolist() == pytest.approx([1 / 8, 1 / 8])


# ---------------------------------------------------------------- triplet loss


def test_triplet_loss_of_two_tasks_by_hand():
    """One transition each, factors of variance 1: own ones at 0 and 2, each relabelled as the other's at 0.5 and 1.

    For (0, 1) the anchor at 0.5 has KL 0.5^2 / 2 to task 0 and 1.5^2 / 2 to task 1; for (1, 0) the anchor at 1 has 1/2
    to both.
    """
    algorithm = mbml(triplet_margin=2.0)
    own = torch.stack([factors(0.0, 1.0), factors(2.0, 1.0)])[:, None]
    relabelled = torch.zeros(2, 2, 1, 2)
    relabelled[0, 1], relabelled[1, 0] = factors(0.5, 1.0), factors(1.0, 1.0)
    accepted = ~torch.eye(2, dtype=torch.bool)[..., None]
    expected = ((0.125 - 1.125 + 2) + (0.5 - 0.5 + 2)) / 2
    assert algorithm.triplet_loss(own, relabelled, accepted).item() == pytest.approx(expected, rel=1e-5)


def test_pairs_without_an_accepted_transition_cost_the_margin_and_have_no_gradient():
    algorithm = mbml(triplet_margin=2.0)
    own = torch.randn(2, 4, 2, requires_grad=True)
    relabelled = torch.randn(2, 2, 4, 2, requires_grad=True)
    loss = algorithm.triplet_loss(own, relabelled, torch.zeros(2, 2, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(2.0)
    assert own.grad.abs().sum() == 0 and relabelled.grad.abs().sum() == 0


def test_the_positive_has_as_many_transitions_as_the_anchor():
    """Positive factors N(0, 1): of m transitions the posterior's variance is 1 / m, which the KL divergence shows."""
    algorithm = mbml(triplet_margin=0.0)
    own = factors(0.0, 1.0).expand(2, 4, 2).clone()
    own[1] = factors(50.0, 1.0)
    relabelled = factors(0.0, 1.0).repeat(2, 2, 4, 1)
    accepted = torch.zeros(2, 2, 4, dtype=torch.bool)
    accepted[0, 1, :2] = True
    assert algorithm.triplet_loss(own, relabelled, accepted).item() == pytest.approx(0.0, abs=1e-4)


# ---------------------------------------------------------------- stages


def test_each_stage_moves_its_own_networks(moved_by):
    algorithm = mbml()
    teachers = {"teacher_vae", "teacher_critics", "teacher_perturbation"}
    targets = {"teacher_critic_target", "teacher_perturbation_target"}
    assert moved_by(algorithm, "teachers") == teachers | targets
    assert moved_by(algorithm, "ensembles") == {"ensembles"}
    assert moved_by(algorithm, "train") == {"encoder", "critic", "decoder", "perturbation"}


def test_a_teacher_learns_its_own_task_whatever_the_order_of_the_batch():
    first, second = mbml(), mbml()
    for algorithm in (first, second):
        algorithm.stage = "teachers"
    batch = random_batch(first)
    order = torch.tensor([2, 0, 1])
    columns = ("tasks", "observations", "actions", "rewards", "next_observations", "terminated")
    shuffled = replace(batch, **{name: getattr(batch, name)[order] for name in columns})
    first.update(batch)
    second.update(shuffled)
    for a, b in zip(first.teacher_critics.parameters(), second.teacher_critics.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_ensembles_learn_the_rewards_of_their_tasks():
    """The reward of task k is k: after a few hundred updates the members say so and agree."""
    algorithm = mbml(learning_rate=1e-2)
    algorithm.stage = "ensembles"
    rewards = torch.arange(3.0)[:, None].expand(3, 8)
    for k in range(300):
        batch = random_batch(algorithm, seed=k)
        context = replace(batch.contexts[0], rewards=rewards[batch.tasks])
        algorithm.update(replace(batch, contexts=(context, context)))
    context = random_context(PROBLEM, 2, 4, seed=7)
    relabelled, accepted = algorithm.relabel(torch.tensor([1, 2]), context)
    torch.testing.assert_close(relabelled.rewards[1], torch.ones(4), atol=0.1, rtol=0)
    torch.testing.assert_close(relabelled.rewards[2], torch.full((4,), 2.0), atol=0.1, rtol=0)


def test_the_student_comes_to_value_actions_as_the_teachers_do():
    algorithm = mbml(learning_rate=3e-3, kl_weight=0.0)
    for q, member in zip((1.0, 2.0, 3.0), range(3), strict=True):
        algorithm.teacher_critics[-1].weight.data[member] = 0.0
        algorithm.teacher_critics[-1].bias.data[member] = q

    def batch(seed):
        """Transitions whose rewards tell the task."""
        drawn = random_batch(algorithm, seed=seed)
        marked = tuple(replace(c, rewards=drawn.tasks[:, None].float().expand(2, 4)) for c in drawn.contexts)
        return replace(drawn, contexts=marked)

    losses = [algorithm.update(batch(k))["value_loss"].item() for k in range(400)]
    assert sum(losses[:20]) / 20 > 1.0 and sum(losses[-20:]) / 20 < 0.1


def test_a_context_needs_its_reward():
    algorithm = mbml()
    context = random_context(PROBLEM, 2, 4)
    broken = Context(context.observations, context.actions, context.rewards * torch.nan, context.next_observations)
    with pytest.raises(ValueError, match="rewards hold NaN"):
        algorithm.adapt(broken)
