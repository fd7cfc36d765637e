from dataclasses import replace

import numpy as np
import pytest
import torch

from omrlbench.algorithms.algorithm import Algorithm, AlgorithmConfig, Policy, Problem
from omrlbench.data.store import load_dataset
from omrlbench.envs.references import reference_returns
from omrlbench.errors import Diverged
from omrlbench.evaluation import embed_tasks, evaluate


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


def test_actions_that_are_not_numbers_are_divergence(dataset, probe):
    probe.action = torch.full((2,), torch.nan)
    with pytest.raises(Diverged, match="actions are not finite"):
        evaluate(probe, dataset, "test", 1, seed=0, evaluation_index=0, context_size=4)


def test_embeddings_cover_every_task(dataset, probe):
    tasks, embeddings = embed_tasks(probe, dataset, range(110), 2, seed=0, context_size=8)
    assert embeddings.shape == (220, 2) and np.array_equal(tasks, np.repeat(np.arange(110), 2))
    probe.embed = lambda context: None
    assert embed_tasks(probe, dataset, range(110), 2, seed=0, context_size=8) is None
