"""What is loaded is what was rolled out, through this package, D4RL's functions and plain Minari."""

import os
import subprocess
import sys
import tracemalloc

import minari
import numpy as np
import pytest
import torch

import omrlbench
from omrlbench.data.behavior import rollout
from omrlbench.data.checkpoints import load_checkpoints
from omrlbench.data.dataset import MetaBatchSampler
from omrlbench.data.store import describe
from omrlbench.envs.registry import get_meta_env
from omrlbench.errors import BenchError

SPEC = get_meta_env("sparse_point_robot")
TASKS, EPISODES, HORIZON = 110, 50, 20


@pytest.fixture(scope="module")
def dataset(data_dir):
    return omrlbench.load_dataset("sparse_point_robot", "expert", data_dir=data_dir)


def by_episode(values) -> np.ndarray:
    return values.numpy().reshape(TASKS, EPISODES, HORIZON, *values.shape[1:])


def test_the_round_trip_is_bitwise(dataset):
    checkpoints = load_checkpoints(SPEC, "per_task")
    (step,) = checkpoints.levels["sparse_point_robot"]["expert"]
    generator = np.random.default_rng(np.random.SeedSequence((1337, 2, 0)))
    rolled = rollout(SPEC, checkpoints.policy(step), EPISODES, generator)
    pairs = {
        "observations": (dataset.observations, rolled["observations"][:, :, :-1]),
        "next_observations": (dataset.next_observations, rolled["observations"][:, :, 1:]),
        "actions": (dataset.actions, rolled["actions"]),
        "dense": (dataset.rewards["dense"], rolled["dense_reward"]),
        "sparse": (dataset.rewards["sparse"], rolled["sparse_reward"]),
        "terminated": (dataset.terminated, rolled["terminated"]),
        "truncated": (dataset.truncated, rolled["truncated"]),
    }
    for stored, expected in pairs.values():
        assert stored.is_contiguous()
        assert stored.numpy().dtype == expected.dtype
        np.testing.assert_array_equal(by_episode(stored), expected)


def test_tasks_are_rows_one_after_the_other(dataset):
    assert len(dataset) == TASKS * EPISODES * HORIZON
    np.testing.assert_array_equal(dataset.task_size, np.full(TASKS, 1000))
    np.testing.assert_array_equal(dataset.task_start, 1000 * np.arange(TASKS))


def test_time_limits_are_truncations(dataset):
    assert not dataset.terminated.any()
    np.testing.assert_array_equal(np.flatnonzero(dataset.truncated.numpy()) % HORIZON, HORIZON - 1)


def test_replaying_the_actions_gives_the_stored_observations_and_both_rewards(dataset):
    for task in (0, 57, 109):
        env = SPEC.make(task)
        first = dataset.task_start[task]
        observation, _ = env.reset()
        for row in range(first, first + HORIZON):
            np.testing.assert_array_equal(dataset.observations[row], observation)
            observation, reward, _, _, info = env.step(dataset.actions[row].numpy())
            np.testing.assert_array_equal(dataset.next_observations[row], observation)
            assert dataset.rewards["dense"][row] == np.float32(info["dense_reward"])
            assert dataset.rewards["sparse"][row] == np.float32(info["sparse_reward"]) == np.float32(reward)


def test_contexts_have_the_own_reward_and_batches_the_chosen_one(dataset):
    sampler = MetaBatchSampler(dataset, "dense", 4, 32, 16, False, np.random.default_rng(0))
    batch = sampler.sample()
    assert batch.rewards.shape == (4, 32)
    assert (batch.rewards <= 0).all()
    for context in batch.contexts:
        assert context.rewards.shape == (4, 16)
        assert (context.rewards >= 0).all()
        assert context.rewards.max() > 0.7


def test_a_reward_that_the_environment_does_not_have_is_one_line(dataset):
    with pytest.raises(BenchError, match="^unknown rl_reward of sparse_point_robot 'sprase': did you mean sparse?"):
        MetaBatchSampler(dataset, "sprase", 4, 32, 16, False, np.random.default_rng(0))


def test_metadata(dataset):
    metadata = dataset.metadata
    assert metadata["id"] == "omrl/sparse_point_robot/expert-v1"
    assert metadata["revisions"] == {"dataset": 1, "environment": SPEC.revision, "generator": 1}
    assert metadata["task_set"]["parameters"] == SPEC.tasks.parameters.tolist()
    assert metadata["state"] in ("pinned", "pinned recipe, other machine")
    means = by_episode(dataset.rewards["sparse"]).sum(-1, dtype=np.float64).mean(-1)
    np.testing.assert_allclose(metadata["task_mean_returns"], means, rtol=1e-12)


def test_qlearning_dataset_of_one_task(dataset, data_dir):
    data = omrlbench.qlearning_dataset("sparse_point_robot", "expert", task_id=3, data_dir=data_dir)
    shapes = {name: (values.shape, values.dtype.name) for name, values in data.items()}
    assert shapes == {
        "observations": ((1000, 2), "float32"),
        "actions": ((1000, 2), "float32"),
        "next_observations": ((1000, 2), "float32"),
        "rewards": ((1000,), "float32"),
        "terminals": ((1000,), "bool"),
        "timeouts": ((1000,), "bool"),
    }
    np.testing.assert_array_equal(data["rewards"], dataset.rewards["sparse"][3000:4000])
    np.testing.assert_array_equal(np.flatnonzero(data["timeouts"]), np.arange(19, 1000, 20))
    inside = ~data["timeouts"][:-1]
    np.testing.assert_array_equal(data["next_observations"][:-1][inside], data["observations"][1:][inside])
    step = 0.1 * np.clip(data["actions"], -1, 1)
    np.testing.assert_allclose(data["next_observations"], data["observations"] + step, atol=1e-6)
    np.testing.assert_array_equal(data["observations"][::20], np.zeros((50, 2)))


def test_qlearning_dataset_of_several_tasks_and_the_other_reward(dataset):
    def load(**options):
        return omrlbench.qlearning_dataset("sparse_point_robot", dataset=dataset, **options)

    np.testing.assert_array_equal(load()["actions"], dataset.actions)
    several = load(task_id=[109, 2], reward="dense")
    rows = np.r_[109_000:110_000, 2000:3000]
    np.testing.assert_array_equal(several["rewards"], dataset.rewards["dense"][rows])
    with pytest.raises(ValueError, match="task ids of sparse_point_robot are integers from 0 to 109"):
        load(task_id=110)
    with pytest.raises(ValueError, match="unknown reward 'shaped', choose from dense, sparse"):
        load(reward="shaped")
    with pytest.raises(ValueError, match="is sparse_point_robot expert, not sparse_point_robot medium"):
        load(level="medium")


def test_sequence_dataset(dataset):
    episodes = list(omrlbench.sequence_dataset("sparse_point_robot", task_id=3, dataset=dataset))
    assert len(episodes) == 50
    for number, episode in enumerate(episodes):
        assert episode["actions"].shape == (20, 2)
        assert episode["timeouts"].tolist() == 19 * [False] + [True]
        first = 3000 + 20 * number
        np.testing.assert_array_equal(episode["observations"], dataset.observations[first : first + 20])


def test_normalized_score():
    from omrlbench.envs.references import reference_returns

    ends = reference_returns("sparse_point_robot", "test")
    scores = omrlbench.get_normalized_score("sparse_point_robot", np.array([ends.random, ends.expert]))
    np.testing.assert_allclose(scores, [0, 1])


@pytest.fixture(scope="module")
def ragged_dataset(ragged):
    return omrlbench.load_dataset("sparse_point_robot", "random", data_dir=ragged.folder)


def test_the_round_trip_of_ragged_episodes_is_bitwise(ragged, ragged_dataset):
    rolled, data = ragged.rolled, ragged_dataset
    inside = np.arange(HORIZON) < ragged.lengths[..., None]
    pairs = {
        "observations": (data.observations, rolled["observations"][:, :, :-1]),
        "next_observations": (data.next_observations, rolled["observations"][:, :, 1:]),
        "actions": (data.actions, rolled["actions"]),
        "dense": (data.rewards["dense"], rolled["dense_reward"]),
        "sparse": (data.rewards["sparse"], rolled["sparse_reward"]),
        "terminated": (data.terminated, rolled["terminated"]),
        "truncated": (data.truncated, rolled["truncated"]),
    }
    for stored, expected in pairs.values():
        assert stored.is_contiguous()
        np.testing.assert_array_equal(stored.numpy(), expected[inside])
    np.testing.assert_array_equal(data.task_size, ragged.lengths.sum(1))
    np.testing.assert_array_equal(data.task_start, 28 * np.arange(TASKS))


def test_ragged_episodes_know_task_length_and_return(ragged, ragged_dataset):
    tasks, lengths, returns = ragged_dataset.episodes()
    np.testing.assert_array_equal(tasks, np.repeat(np.arange(TASKS), 3))
    np.testing.assert_array_equal(lengths, ragged.lengths.ravel())
    np.testing.assert_allclose(returns, ragged.rolled["sparse_reward"].sum(-1, dtype=np.float64).ravel(), rtol=1e-12)
    assert describe("sparse_point_robot", "random", data_dir=ragged.folder)["transitions"] == ragged.lengths.sum()


def test_ragged_episodes_are_cut_at_their_ends(ragged, ragged_dataset):
    options = {"level": "random", "task_id": 3, "dataset": ragged_dataset}
    episodes = list(omrlbench.sequence_dataset("sparse_point_robot", **options))
    assert [len(episode["rewards"]) for episode in episodes] == [1, 7, 20]
    for number, episode in enumerate(episodes):
        assert episode["terminals"].sum() == 1 and episode["terminals"][-1]
        assert episode["timeouts"].sum() == episode["timeouts"][-1] == (number == 2)
    together = omrlbench.qlearning_dataset("sparse_point_robot", **options)
    np.testing.assert_array_equal(together["actions"], np.concatenate([e["actions"] for e in episodes]))


def test_on_disk_a_ragged_episode_has_its_own_length(ragged, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(ragged.folder))
    stored = minari.load_dataset("omrl/sparse_point_robot/random-v1")
    assert (stored.total_episodes, stored.total_steps) == (330, ragged.lengths.sum())
    for episode, length in zip(stored.iterate_episodes([9, 10, 11]), (1, 7, 20), strict=True):
        assert (len(episode), len(episode.actions), len(episode.observations)) == (length, length, length + 1)


def test_loading_holds_less_than_the_dataset_twice(dataset, data_dir):
    tensors = [value for value in vars(dataset).values() if isinstance(value, torch.Tensor)]
    size = sum(values.nbytes for values in [*tensors, *dataset.rewards.values()])
    tracemalloc.start()
    try:
        omrlbench.load_dataset("sparse_point_robot", "expert", data_dir=data_dir)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < peak < 2 * size


MINARI_SCRIPT = """
import warnings
warnings.simplefilter("error")
import minari, numpy as np
dataset = minari.load_dataset("omrl/sparse_point_robot/expert-v1")
env = dataset.recover_environment()
episode = dataset[57 * 50 + 1]
(about,) = dataset.storage.get_episode_metadata([57 * 50 + 1])
observation, _ = env.reset(options=about["options"])
for t in range(len(episode)):
    np.testing.assert_array_equal(observation, episode.observations[t])
    observation, reward, terminated, truncated, info = env.step(episode.actions[t])
    assert np.float32(reward) == episode.rewards[t]
    assert np.float32(info["dense_reward"]) == episode.infos["dense_reward"][t]
    assert (terminated, truncated) == (episode.terminations[t], episode.truncations[t])
np.testing.assert_array_equal(observation, episode.observations[-1])
assert truncated
print(int(about["options"]["task_id"]), dataset.recover_environment(eval_env=True).spec.id)
"""


def test_plain_minari_recovers_the_environment_in_a_fresh_process(data_dir):
    environment = os.environ | {"MINARI_DATASETS_PATH": str(data_dir)}
    done = subprocess.run([sys.executable, "-c", MINARI_SCRIPT], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.split() == ["57", "omrl/SparsePointRobot-v0"]


def test_plain_minari_sees_the_episodes(dataset, data_dir, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(data_dir))
    made = {"omrl/sparse_point_robot/expert-v1", "omrl/sparse_point_robot/expert-shifted-v1"}
    assert set(minari.list_local_datasets()) == made
    stored = minari.load_dataset("omrl/sparse_point_robot/expert-v1")
    assert (stored.total_episodes, stored.total_steps) == (5500, 110_000)
    (about,) = stored.storage.get_episode_metadata([151])
    (step,) = load_checkpoints(SPEC, "per_task").levels["sparse_point_robot"]["expert"]
    assert about["policy_step"] == step
    assert about["return"] == stored[151].rewards.sum(dtype=np.float64)
    np.testing.assert_array_equal(stored[151].actions, dataset.actions[151 * 20 : 152 * 20])
    assert minari.get_normalized_score(stored, np.array(12.0)) == pytest.approx(
        omrlbench.get_normalized_score("sparse_point_robot", 12.0)
    )


def test_importing_the_package_is_light():
    script = "import omrlbench, sys; print(omrlbench.__version__, {'torch', 'minari', 'h5py'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [omrlbench.__version__, "set()"]
    assert "load_dataset" in dir(omrlbench)
    with pytest.raises(AttributeError, match="no attribute 'load_datasets'"):
        _ = omrlbench.load_datasets
