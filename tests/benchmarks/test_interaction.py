"""Methods that collect their own data: the replay buffer, what is collected when, and rewards that are withheld."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from omrlbench import run_data, training
from omrlbench.algorithms.algorithm import LAST_STAGE, Policy
from omrlbench.algorithms.pearl import Pearl
from omrlbench.algorithms.smac import SMAC
from omrlbench.compare import compare
from omrlbench.config import resolve
from omrlbench.data.store import load_dataset
from omrlbench.envs import point_robot
from omrlbench.envs.registry import get_meta_env
from omrlbench.envs.vector import RewardFree
from omrlbench.errors import BenchError, Interrupted
from omrlbench.evaluation import Rollout, Stream, generator
from omrlbench.interaction import ReplayBuffer
from omrlbench.training import make_algorithm, make_sampler
from omrlbench.verification import verified_record

ENV = "sparse_point_robot"
TRAIN = 80  # tasks
HORIZON = 20
EACH = 3  # episodes of a collection per task: prior, posterior, extra


@pytest.fixture(scope="module")
def logs(data_dir):
    return load_dataset(ENV, "expert", data_dir=data_dir)


def episodes(first: float, lengths: list[int]) -> Rollout:
    """One of each length, whose every number tells when and where: `first` + 100 * episode + step."""
    n, steps = len(lengths), np.arange(HORIZON + 1)
    codes = (first + 100 * np.arange(n)[:, None] + steps).astype(np.float32)
    running = steps[:-1] < np.array(lengths)[:, None]
    rewards = {"dense": codes[:, :-1], "sparse": codes[:, :-1] + 0.5}
    last = steps[:-1] == np.array(lengths)[:, None] - 1
    paths = codes[..., None].repeat(2, 2)
    return Rollout(np.zeros(n), paths, paths[:, :-1], rewards, running, last & running)


def sampler_of(algo, logs, *overrides):
    config = resolve(ENV, algo, budget="smoke", overrides=overrides)
    algorithm = make_algorithm(config, logs)
    return algorithm, make_sampler(config, logs, algorithm, generator(0, Stream.BATCHES))


def test_the_buffer_draws_each_task_s_own_transitions_up_to_the_end_of_episodes(logs):
    buffer = ReplayBuffer(logs, 100)
    buffer.add(np.array([3, 5, 3]), episodes(0, [20, 4, 2]), recent=True)
    rows, *_ = buffer.draw_batch_rows(np.array([5, 3]), 500, 1, np.random.default_rng(0))
    assert buffer.observations[rows[0], 0].unique().tolist() == [100, 101, 102, 103]
    assert buffer.observations[rows[1], 0].unique().tolist() == [*range(20), 200, 201]
    assert torch.equal(buffer.next_observations[rows], buffer.observations[rows] + 1)
    assert torch.equal(buffer.rewards["dense"][rows] + 0.5, buffer.rewards["sparse"][rows])
    assert buffer.observations[:26][buffer.terminated[:26], 0].tolist() == [19, 103, 201]
    assert (buffer.stored, buffer.episodes) == (26, 3)


def test_contexts_are_of_the_latest_collection_and_batches_of_all(logs):
    buffer = ReplayBuffer(logs, 100)
    tasks = np.array([3])
    buffer.add(tasks, episodes(0, [2]), recent=True)
    buffer.forget(tasks)
    buffer.add(tasks, episodes(1000, [2]), recent=True)
    buffer.add(tasks, episodes(2000, [2]), recent=False)
    rows, *contexts = buffer.draw_batch_rows(tasks, 200, 100, np.random.default_rng(0))
    assert buffer.actions[rows, 0].unique().tolist() == [0, 1, 1000, 1001, 2000, 2001]
    for rows in contexts:
        context = buffer.context(rows)
        assert context.actions.unique().tolist() == [1000, 1001]
        assert torch.equal(context.rewards, context.actions[..., 0] + 0.5)  # the environment's own, sparse


def test_it_collects_before_the_first_update_and_every_so_many(logs):
    """At first an episode in every training task, then 2 tasks with 3 episodes each, every 25 batches."""
    _, sampler = sampler_of("pearl", logs)
    collected = []
    for _ in range(51):
        sampler.sample()
        collected.append(sampler.counts()["episodes"])
    assert collected == [TRAIN + 2 * EACH] * 25 + [TRAIN + 4 * EACH] * 25 + [TRAIN + 6 * EACH]
    assert sampler.counts()["transitions"] == HORIZON * collected[-1]
    room = HORIZON * (2 * TRAIN + 4 * 2 * 2 * EACH)  # after the run's 100, and in each phase for one episode too many
    assert len(sampler.buffer.observations) == room


def test_z_is_of_the_prior_first_and_then_of_the_posterior_of_what_was_just_collected(logs, monkeypatch):
    algorithm, sampler = sampler_of("pearl", logs, "prior_episodes=2", "posterior_episodes=2", "extra_episodes=2")
    explore, seen = algorithm.explore, []

    def recorded(n, context, noise):
        tasks = {task: len(rows) // HORIZON for task, rows in sampler.buffer.recent.items()}
        starts = None if context is None else {tuple(row) for row in sampler.buffer.observations.numpy()}
        known = (
            None if context is None else {tuple(row) for part in context.observations.numpy() for row in part} <= starts
        )
        seen.append((n, known, tasks))
        return explore(n, context, noise)

    monkeypatch.setattr(algorithm, "explore", recorded)
    sampler.sample()
    assert [(n, known) for n, known, _ in seen] == [(TRAIN, None), (4, None), (2, True), (2, True), (4, True)]
    visited = [task for task, episodes in seen[1][2].items() if not episodes]  # their first episodes are forgotten
    counts = [{tasks[task] for task in visited} for *_, tasks in seen[1:]]
    assert len(visited) == 2 and counts == [{0}, {2}, {3}, {4}]
    assert {len(sampler.buffer.recent[task]) // HORIZON for task in visited} == {4}  # without the extra ones


@pytest.mark.parametrize(("one_by_one", "first"), [(False, [3, 3, 3, 5, 5, 5]), (True, [3, 5])])
def test_where_episodes_end_early_more_are_collected(logs, monkeypatch, one_by_one, first):
    """Task 3's end after a quarter of the horizon, task 5's at it: each collects three times the horizon."""
    _, sampler = sampler_of("pearl", logs)
    visited = []

    def run_episodes(tasks, random):
        visited.append(tasks.tolist())
        return np.where(tasks == 3, HORIZON // 4, HORIZON)

    monkeypatch.setattr(sampler, "run_episodes", run_episodes)
    sampler.run_phase(np.array([3, 5]), 3, np.random.default_rng(0), one_by_one=one_by_one)
    flat = sum(visited, [])
    assert visited[0] == first and flat.count(5) == 3 and 12 <= flat.count(3) <= 15


def test_interaction_alone_takes_no_statistics_from_logs(monkeypatch, logs):
    standardising = replace(logs, spec=replace(logs.spec, standardize_observations=True))
    monkeypatch.setattr(run_data, "checked_dataset", lambda *_: standardising)
    seen = {algo: run_data.load_own(resolve(ENV, algo, budget="smoke")).observations for algo in ("pearl", "smac")}
    assert torch.equal(seen["pearl"], logs.observations) and not torch.equal(seen["smac"], logs.observations)


def distances_to_goals(positions, tasks):
    """Of `positions` (n, k, 2) in training tasks (n,)."""
    known = get_meta_env(ENV).tasks
    goals = known.parameters[list(known.splits["train"])][tasks]
    return np.linalg.norm(positions.numpy() - goals[:, None], axis=-1)


def sparse_rewards(positions, tasks):
    distances = distances_to_goals(positions, tasks)
    return np.where(distances <= 0.2, 1 - distances, 0)


def test_collected_rewards_are_those_of_the_task(logs):
    algorithm, sampler = sampler_of("pearl", logs)
    batch = sampler.sample()
    np.testing.assert_allclose(batch.rewards, -distances_to_goals(batch.next_observations, batch.tasks), atol=1e-5)
    context = batch.contexts[0]
    np.testing.assert_allclose(context.rewards, sparse_rewards(context.next_observations, batch.tasks), atol=1e-5)
    moves = (batch.next_observations - batch.observations).numpy()
    np.testing.assert_allclose(moves, 0.1 * batch.actions, atol=1e-6)


def test_a_reward_free_environment_tells_no_reward_of_any_kind():
    env = RewardFree(get_meta_env(ENV).make_vector([0, 1]))
    env.reset(seed=0)
    _, rewards, _, truncated, infos = env.step(np.zeros((2, 2), np.float32))
    assert np.isnan(rewards).all() and not truncated.any()
    assert set(infos) == {"dense_reward", "sparse_reward"} and np.isnan(list(infos.values())).all()


def parameters_after(algo, logs, monkeypatch=None):
    algorithm, sampler = sampler_of(algo, logs)
    algorithm.stage = LAST_STAGE
    for _ in range(3):
        algorithm.update(sampler.sample())
    return torch.cat([p.flatten() for p in algorithm.actor.parameters()])


@pytest.mark.parametrize("algo", ["smac", "pearl"])
def test_what_smac_learns_does_not_depend_on_the_rewards_of_the_environment(logs, monkeypatch, algo):
    """And what PEARL learns does."""
    before = parameters_after(algo, logs)
    original = point_robot.rewards_at
    altered = lambda *where: {kind: 7 * value + 3 for kind, value in original(*where).items()}  # noqa: E731
    monkeypatch.setattr(point_robot, "rewards_at", altered)
    assert torch.equal(before, parameters_after(algo, logs)) == (algo == "smac")


def test_the_learner_labels_without_seeing_a_reward_of_the_episode(logs, monkeypatch):
    seen = []

    def label(self, logged, observations, actions, generator):
        seen.append((logged, observations, actions))
        return torch.full(actions.shape[:2], 2.0), torch.full(actions.shape[:2], 5.0)

    monkeypatch.setattr(SMAC, "label", label)
    _, sampler = sampler_of("smac", logs)
    batch = sampler.sample()
    half = batch.rewards.shape[1] // 2
    assert (batch.rewards[:, :half] == 2).all() and (batch.contexts[0].rewards == 5).all()
    assert not (batch.rewards[:, half:] == 2).any() and not (batch.contexts[1].rewards == 5).any()
    logged, observations, actions = seen[0]
    assert observations.shape == actions.shape == (TRAIN, HORIZON, 2) and logged.rewards.shape == (TRAIN, 16)
    np.testing.assert_allclose(logged.rewards, sparse_rewards(logged.next_observations, np.arange(TRAIN)), atol=1e-5)


def test_what_is_collected_is_seen_standardised_as_logs_are(logs, monkeypatch):
    """By the policy, by the decoder that labels it, and in batches."""
    standardising = replace(logs, spec=replace(logs.spec, standardize_observations=True)).for_learning()
    algorithm, sampler = sampler_of("smac", standardising)
    explore, label, seen = algorithm.explore, algorithm.label, {"policy": [], "decoder": []}

    class Watched(Policy):
        def __init__(self, policy):
            self.policy = policy

        def act(self, observations):
            seen["policy"].append(observations)
            return self.policy.act(observations)

    def labelled(logged, observations, actions, noise):
        seen["decoder"].append(observations)
        return label(logged, observations, actions, noise)

    monkeypatch.setattr(algorithm, "explore", lambda *arguments: Watched(explore(*arguments)))
    monkeypatch.setattr(algorithm, "label", labelled)
    batch = sampler.sample()
    start = -standardising.observation_mean / standardising.observation_scale  # of an episode at the origin
    for first in (seen["policy"][0], seen["decoder"][0][:, 0]):
        torch.testing.assert_close(first, start.expand_as(first))
    policy_s = torch.stack(seen["policy"][:HORIZON], 1)
    torch.testing.assert_close(seen["decoder"][0], policy_s)
    torch.testing.assert_close(sampler.buffer.observations[: TRAIN * HORIZON], policy_s.flatten(0, 1))
    moves = (batch.next_observations - batch.observations) * standardising.observation_scale
    torch.testing.assert_close(moves, 0.1 * batch.actions, atol=1e-5, rtol=0)


def test_half_of_a_reward_free_batch_is_logged(logs):
    _, sampler = sampler_of("smac", logs)
    batch = sampler.sample()
    known = {tuple(row) for row in logs.observations.tolist()} - {(0.0, 0.0)}
    starts = (batch.observations == 0).all(-1)
    logged = torch.tensor([[tuple(row) in known for row in task] for task in batch.observations.tolist()])
    assert logged[:, 8:].logical_or(starts[:, 8:]).all() and not logged[:, :8].any()
    assert batch.observations.shape[:2] == (4, 16)


@pytest.mark.parametrize(
    "algo, stage, step",
    [
        ("pearl", "train", 60),
        ("pearl", "train", 25),  # the next batch needs a collection
        ("smac", "train", 60),
        ("smac", "train", 25),
        ("smac", "offline", 30),
        ("smac", "offline", 100),  # the last of its stage
    ],
)
def test_an_interrupted_run_goes_on_as_if_it_had_not_stopped(tmp_path, data_dir, monkeypatch, algo, stage, step):
    config = resolve(ENV, algo, budget="smoke")
    method = {"pearl": Pearl, "smac": SMAC}[algo]
    original, updates = method.update, {"offline": 0, "train": 0}

    def update(self, batch):
        updates[self.stage] += 1
        if updates[stage] == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(method, "update", update)
        with pytest.raises(Interrupted):
            training.run(config, results_dir=tmp_path, data_dir=data_dir)
    resumed = training.run(config, results_dir=tmp_path, data_dir=data_dir)
    assert len(resumed.execution["sittings"]) == 2
    whole = training.run(config, results_dir=tmp_path / "whole", data_dir=data_dir)
    assert resumed.result == whole.result
    weights = (config.record_path(tmp_path / part).with_suffix(".safetensors").read_bytes() for part in ("", "whole"))
    assert next(weights) == next(weights)


def test_runs_that_interact_are_scored_online_and_say_what_they_collected(tmp_path, data_dir):
    config, offline = (resolve(ENV, algo, budget="smoke") for algo in ("pearl", "smac_offline"))
    record = training.run(config, results_dir=tmp_path, data_dir=data_dir)
    path = config.record_path(tmp_path)
    assert verified_record(path, tmp_path) == record and record.config["experience"] == "interaction"
    protocols = [evaluation["protocol"] for evaluation in record.result["evaluations"]]
    assert protocols == ["online", "online", "offline", "offline_shifted"] and record.protocol == "online"
    assert record.result["score"] == np.mean([e["score"] for e in record.result["evaluations"][:2]])
    assert record.result["interaction"] == {"episodes": TRAIN + 4 * 2 * EACH, "transitions": 20 * (TRAIN + 8 * EACH)}
    other = training.run(offline, results_dir=tmp_path, data_dir=data_dir)
    assert "interaction" not in other.result and other.protocol == "offline" and "experience" not in other.config
    with pytest.raises(BenchError, match="scores under the protocols offline and online cannot be compared"):
        compare("pearl", "smac_offline", [tmp_path], "smoke")
    text = path.read_text()
    path.write_text(text.replace('"transitions": 2080', '"transitions": 2081'))
    with pytest.raises(BenchError, match="2081 transitions of 104 episodes"):
        verified_record(path, tmp_path)
    less = json.loads(text)
    less["result"]["interaction"] = {"episodes": 103, "transitions": 2060}
    path.write_text(json.dumps(less))
    with pytest.raises(BenchError, match="it collected 2060 transitions, its config asks for 2080 at least"):
        verified_record(path, tmp_path)
    del less["result"]["interaction"]
    path.write_text(json.dumps(less))
    with pytest.raises(BenchError, match="does not tell what was collected"):
        verified_record(path, tmp_path)
    path.write_text(text.replace('"experience": "interaction"', '"experience": "logs"'))
    with pytest.raises(BenchError, match="its method's experience is interaction"):
        verified_record(path, tmp_path)
