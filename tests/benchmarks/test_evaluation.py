from dataclasses import replace

import numpy as np
import pytest
import torch

from omrlbench.algorithms.algorithm import Algorithm, AlgorithmConfig, Policy, Problem
from omrlbench.data.store import load_dataset
from omrlbench.envs.references import reference_returns
from omrlbench.errors import Diverged
from omrlbench.evaluation import (
    COLLECTION_EPISODES,
    PROTOCOLS,
    Rollout,
    draw_collected,
    embed_tasks,
    evaluate,
)


class Constant(Policy):
    def __init__(self, action):
        self.action = action

    def act(self, observations):
        return self.action.expand(len(observations), 2)


class Probe(Algorithm):
    """Keeps the context it is given; acts by a constant."""

    action = torch.zeros(2)

    def update(self, batch):
        return {}

    def adapt(self, context):
        self.context = context
        return Constant(self.action)

    def embed(self, context):
        return context.observations.mean(1)


class Explorer(Probe):
    """Acts by a constant of its own in each task and episode, and keeps every context it is given."""

    def __init__(self):
        super().__init__(Problem(2, 2, 2, 80), AlgorithmConfig(), 0)
        self.contexts = []

    def prior(self, n, generator):
        return Constant(2 * torch.rand(n, 2, generator=generator) - 1)

    def adapt(self, context):
        self.contexts.append(context)
        return Constant(torch.full((2,), 0.1 * len(self.contexts)))


class Oracle(Probe):
    def __init__(self, spec, split, episodes):
        super().__init__(Problem(2, 2, 2, 80), AlgorithmConfig(), 0)
        self.controller = spec.oracle_policy(np.repeat(spec.tasks.splits[split], episodes))

    def adapt(self, context):
        policy = Constant(None)
        policy.act = lambda observations: torch.as_tensor(self.controller(observations.numpy()))
        return policy


@pytest.fixture
def dataset(data_dir):
    return load_dataset("sparse_point_robot", "expert", data_dir=data_dir)


@pytest.fixture
def probe():
    return Probe(Problem(2, 2, 2, 80), AlgorithmConfig(), 0)


def with_tasks(dataset, test_tasks):
    """The same data, with other tasks in the test split."""

    class Spec:
        def __getattr__(self, name):
            return getattr(dataset.spec, name)

        tasks = replace(dataset.spec.tasks, splits=dataset.spec.tasks.splits | {"test": tuple(test_tasks)})

    return replace(dataset, spec=Spec())


def test_the_oracle_scores_one_and_standing_still_is_what_it_is(dataset, probe):
    spec = dataset.spec
    best = evaluate(Oracle(spec, "test", 2), dataset, "test", 2, seed=0, evaluation_index=0, context_size=4)
    assert best.returns.shape == (20, 2)
    assert best.returns.mean() == pytest.approx(reference_returns(spec.name, "test").expert, abs=1e-4)
    assert best.score == pytest.approx(1.0, abs=1e-5)
    still = evaluate(probe, dataset, "validation", 3, seed=0, evaluation_index=0, context_size=4)
    assert still.task_ids == spec.tasks.splits["validation"] and (still.returns == 0).all()
    assert still.observations.shape == (10, 3, spec.horizon + 1, 2)


def test_contexts_come_from_the_episode_s_own_task(dataset, probe):
    evaluate(probe, dataset, "test", 2, seed=0, evaluation_index=0, context_size=16)
    assert probe.context.rewards.shape == (40, 16)
    for row, task in enumerate(np.repeat(dataset.spec.tasks.splits["test"], 2)):
        start, size = dataset.task_start[task], dataset.task_size[task]
        logged = dataset.next_observations[start : start + size]
        found = (probe.context.next_observations[row][:, None] == logged).all(-1).any(-1)
        assert found.all()


class Learner(Probe):
    """Learned from the datasets of the evaluated tasks."""

    allowance = "dataset"


def test_a_method_knows_which_tasks_a_context_is_of_only_if_it_learned_from_their_data(dataset, probe):
    learner = Learner(Problem(2, 2, 2, 80), AlgorithmConfig(), 0)
    for algorithm in (probe, learner):
        evaluate(algorithm, dataset, "test", 2, seed=0, evaluation_index=0, context_size=16)
    assert probe.context.task_ids is None and probe.context.task_parameters is None
    assert learner.context.task_ids.tolist() == np.repeat(dataset.spec.tasks.splits["test"], 2).tolist()
    assert learner.context.task_parameters is None
    assert torch.equal(learner.context.observations, probe.context.observations)


def test_a_context_depends_on_seed_evaluation_task_and_episode_only(dataset, probe):
    def observations(data, episodes=3, seed=0, evaluation_index=0):
        evaluate(probe, data, "test", episodes, seed, evaluation_index, context_size=16)
        return probe.context.observations.reshape(-1, episodes, 16, 2)

    tasks = dataset.spec.tasks.splits["test"]
    base = observations(dataset)
    assert torch.equal(base, observations(dataset))
    assert torch.equal(base[[5, 2]], observations(with_tasks(dataset, [tasks[5], tasks[2]])))
    assert torch.equal(base[:, :2], observations(dataset, episodes=2))
    assert not torch.equal(base[:, 0], base[:, 1])
    assert not torch.equal(base, observations(dataset, seed=1))
    assert not torch.equal(base, observations(dataset, evaluation_index=1))


def test_self_collected_context_is_of_the_prior_and_then_also_of_the_adapted_policy(dataset):
    explorer, spec = Explorer(), dataset.spec
    measured = evaluate(explorer, dataset, "test", 2, 0, 0, context_size=64, protocol="online")
    first, second = explorer.contexts
    assert len(explorer.contexts) == COLLECTION_EPISODES and first.rewards.shape == (40, 64)
    by_prior = first.actions[:, :1]
    assert (first.actions == by_prior).all() and len(by_prior.unique(dim=0)) == 40
    again = (second.actions == by_prior).all(-1)
    adapted = (second.actions == 0.1).all(-1)
    assert (again | adapted).all() and 0.4 < again.float().mean() < 0.6
    np.testing.assert_allclose(measured.observations[:, :, 1], 0.02, atol=1e-6)  # 0.2 of a step of at most 0.1
    for row, task in enumerate(np.repeat(spec.tasks.splits["test"], 2)):
        ends = first.next_observations[row].numpy()
        np.testing.assert_allclose(ends, (first.observations[row] + 0.1 * first.actions[row]).numpy(), atol=1e-6)
        distances = np.linalg.norm(ends - spec.tasks.parameters[task], axis=1)
        np.testing.assert_allclose(first.rewards[row], np.where(distances <= 0.2, 1 - distances, 0), atol=1e-6)


def test_self_collected_context_depends_on_seed_evaluation_and_episode_only(dataset):
    def contexts(episodes=3, seed=0, evaluation_index=0):
        explorer = Explorer()
        evaluate(explorer, dataset, "test", episodes, seed, evaluation_index, 16, "online")
        return torch.stack([c.observations.reshape(-1, episodes, 16, 2) for c in explorer.contexts])

    base = contexts()
    assert torch.equal(base, contexts())
    assert torch.equal(base[:, :, :2], contexts(episodes=2))
    assert not torch.equal(base, contexts(seed=1)) and not torch.equal(base, contexts(evaluation_index=1))


def test_transitions_after_the_end_of_an_episode_are_not_drawn(dataset, probe):
    lengths = np.array([[1, 20], [5, 3]])
    episodes = []
    for k in range(2):
        steps = np.arange(20)
        running = steps < lengths[:, k, None]
        codes = np.broadcast_to(100 * k + steps, (2, 20)).astype(np.float32)
        observations = np.zeros((2, 21, 2), np.float32)
        actions, ended = codes[..., None].repeat(2, 2), np.zeros((2, 20), bool)
        episodes.append(Rollout(np.zeros(2), observations, actions, {"sparse": codes}, running, ended))
    generators = [np.random.default_rng(k) for k in range(2)]
    context = draw_collected(episodes, dataset, 2000, generators, torch.device("cpu"))
    assert context.rewards[0].unique().tolist() == [0, *range(100, 120)]
    assert context.rewards[1].unique().tolist() == [0, 1, 2, 3, 4, 100, 101, 102]
    assert torch.equal(context.actions[..., 0], context.rewards)
    counts = torch.bincount(context.rewards[1].long())
    assert counts[counts > 0].min() > 200  # of 250 on average


@pytest.mark.parametrize("privileged", [False, True])
def test_privileged_methods_are_told_the_task_under_every_protocol(dataset, privileged):
    for protocol in PROTOCOLS:
        explorer = Explorer()
        explorer.privileged = privileged
        evaluate(explorer, dataset, "validation", 2, 0, 0, 4, protocol)
        for context in explorer.contexts:
            told = None if context.task_ids is None else context.task_ids.tolist()
            assert told == (np.repeat(dataset.spec.tasks.splits["validation"], 2).tolist() if privileged else None)


def test_a_method_that_cannot_act_without_a_context_has_no_online_evaluation(dataset, probe):
    with pytest.raises(NotImplementedError, match="Probe cannot act without a context"):
        evaluate(probe, dataset, "test", 1, 0, 0, 4, "online")


def test_shifted_contexts_are_standardised_as_the_data_that_is_learned_from(data_dir, dataset):
    class Standardised:
        standardize_observations = True

        def __getattr__(self, name):
            return getattr(dataset.spec, name)

    learning = replace(dataset, spec=Standardised()).for_learning()
    shifted = load_dataset("sparse_point_robot", "expert-shifted", data_dir=data_dir)
    seen = shifted.as_contexts_for(learning)
    assert seen.spec.tasks is learning.spec.tasks
    back = seen.observations * learning.observation_scale + learning.observation_mean
    assert torch.allclose(back, shifted.observations, atol=1e-6) and not torch.equal(back, seen.observations)


def test_actions_that_are_not_numbers_are_divergence(dataset, probe):
    probe.action = torch.full((2,), torch.nan)
    with pytest.raises(Diverged, match="actions are not finite"):
        evaluate(probe, dataset, "test", 1, seed=0, evaluation_index=0, context_size=4)


def test_embeddings_cover_every_task(dataset, probe):
    tasks, embeddings = embed_tasks(probe, dataset, range(110), 2, seed=0, context_size=8)
    assert embeddings.shape == (220, 2) and np.array_equal(tasks, np.repeat(np.arange(110), 2))
    probe.embed = lambda context: None
    assert embed_tasks(probe, dataset, range(110), 2, seed=0, context_size=8) is None
