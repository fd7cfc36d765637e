"""What methods are given of a dataset. Drawing meta-batches and contexts is tested with the store."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from omrlbench.algorithms.algorithm import Policy
from omrlbench.data.dataset import MultiTaskDataset
from omrlbench.data.store import load_dataset
from omrlbench.envs.registry import get_meta_env
from omrlbench.evaluation import roll_out

CHEETAH = get_meta_env("cheetah_vel")


@pytest.fixture
def dataset():
    """Two transitions in each of 110 tasks; those of the tasks that are not for training lie far away."""
    random = torch.Generator().manual_seed(0)
    tasks = len(CHEETAH.tasks)
    observations = 3.0 + 2.0 * torch.randn(2 * tasks, 20, generator=random)
    observations[160:] += 1000.0
    observations[:, 18] = 0.0  # the torso does not leave the plane
    return MultiTaskDataset(
        CHEETAH,
        "expert",
        observations,
        torch.zeros(2 * tasks, 6),
        {"dense": torch.zeros(2 * tasks)},
        observations + 1.0,
        torch.zeros(2 * tasks, dtype=bool),
        torch.ones(2 * tasks, dtype=bool),
        2 * np.arange(tasks),
        np.full(tasks, 2),
        {},
    )


def test_locomotion_is_learned_from_observations_standardised_over_the_training_tasks(dataset):
    seen = dataset.for_learning()
    train = seen.observations[:160]
    moving = [k for k in range(20) if k != 18]
    torch.testing.assert_close(train[:, moving].mean(0), torch.zeros(19), atol=1e-5, rtol=0)
    torch.testing.assert_close(train[:, moving].std(0), torch.ones(19), atol=1e-5, rtol=0)
    assert not train[:, 18].any()
    torch.testing.assert_close(seen.standardized(dataset.next_observations), seen.next_observations)
    assert torch.equal(dataset.for_learning().observations, seen.observations)
    assert dataset.standardized(dataset.observations) is dataset.observations


def test_point_robots_are_learned_from_the_observations_as_they_are(data_dir):
    dataset = load_dataset("sparse_point_robot", data_dir=data_dir)
    assert dataset.for_learning() is dataset


def test_a_policy_is_evaluated_on_the_observations_it_learned_from(dataset):
    class Recorder(Policy):
        def __init__(self):
            self.seen = []

        def act(self, observations):
            self.seen.append(observations)
            return torch.zeros(len(observations), 6)

    policy, seen = Recorder(), dataset.for_learning()
    envs = replace(CHEETAH, horizon=3).make_vector([0, 5])
    observations = roll_out(envs, policy, [1, 2], torch.device("cpu"), seen.standardized).observations
    expected = (torch.from_numpy(observations[:, :3]) - seen.observation_mean) / seen.observation_scale
    torch.testing.assert_close(torch.stack(policy.seen, 1), expected)
