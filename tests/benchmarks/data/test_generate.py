"""Making datasets: deterministic, all or nothing, once for all processes."""

import os
import resource
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from omrlbench.data import identity
from omrlbench.data.checkpoints import checkpoints_path, load_checkpoints
from omrlbench.data.episodes import DatasetError, read_hdf5
from omrlbench.data.generate import make_dataset
from omrlbench.data.store import dataset_id, describe, list_datasets, load_dataset, recipe_fingerprint
from omrlbench.data.validate import validate_dataset
from omrlbench.envs.registry import LEVELS, META_ENVS, get_meta_env
from omrlbench.errors import BenchError

SPEC = get_meta_env("sparse_point_robot")

SCRIPT = """
import os, signal, sys
import torch
from omrlbench.data.generate import make_dataset
from omrlbench.envs.registry import get_meta_env

folder, stop = sys.argv[1:]

def progress(*state):
    if state[:2] == ("roll out", 1):
        print("rolled out")
    if repr(state) == stop:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
spec = get_meta_env("sparse_point_robot")
print(make_dataset(spec, "random", "per_task", folder, episodes=1, on_progress=progress)["content_sha256"])
"""


def start(folder: Path, stop: object = None) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(folder), repr(stop)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def visible(folder: Path) -> list[str]:
    return [row["id"] for row in list_datasets(folder) if row["on_disk"]]


@pytest.mark.parametrize("moment", [("write", 50, 110), ("check", 0, 1)], ids=["writing", "checking"])
def test_a_killed_generation_leaves_no_dataset_and_can_be_repeated(tmp_path, moment):
    process = start(tmp_path, moment)
    process.communicate()
    assert process.returncode == -9
    assert visible(tmp_path) == []
    make_dataset(SPEC, "random", "per_task", tmp_path, episodes=1)
    validate_dataset(SPEC, "random", "per_task", tmp_path)
    assert [f.name for f in (tmp_path / "omrl/sparse_point_robot").iterdir() if f.is_dir()] == ["random-v1"]


def test_two_processes_that_make_the_same_dataset_make_it_once(tmp_path):
    outputs = [process.communicate()[0].split("\n") for process in [start(tmp_path), start(tmp_path)]]
    counts = Counter(line for lines in outputs for line in lines if line)
    assert counts.pop("rolled out") == 1
    assert list(counts.values()) == [2]


def test_the_folder_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_dataset(SPEC, "random", "per_task", "data", episodes=1)
    validate_dataset(SPEC, "random", "per_task", tmp_path / "data")


def test_an_exception_on_the_way_leaves_nothing(tmp_path):
    def interrupt(doing, done, total):
        if doing == "check":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_dataset(SPEC, "random", "per_task", tmp_path, episodes=1, on_progress=interrupt)
    assert [f for f in tmp_path.rglob("*") if f.is_file() and not f.name.endswith(".lock")] == []


def test_a_full_disk_is_a_one_line_error_and_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DatasetError) as caught:
            make_dataset(SPEC, "random", "per_task", tmp_path, episodes=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value) == (f"cannot write omrl/sparse_point_robot/random-v1 below {tmp_path}: File too large")
    assert [f for f in tmp_path.rglob("*") if f.is_file() and not f.name.endswith(".lock")] == []


def test_a_folder_that_cannot_be_written_is_a_one_line_error(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(DatasetError, match="^cannot write omrl/.* below .*: Not a directory$"):
        load_dataset("sparse_point_robot", "random", data_dir=file / "datasets")


def test_a_rollout_that_goes_on_after_an_end_is_refused(ragged, make_from, tmp_path):
    arrays = ragged.rolled | {"actions": ragged.rolled["actions"].copy()}
    arrays["actions"][3, 1, 7] = 0.5
    with pytest.raises(DatasetError, match="episode 10: the bytes are not those that were written$"):
        make_from(arrays, tmp_path)
    assert visible(tmp_path) == []


def test_equal_recipes_give_equal_bytes(tmp_path):
    first, second = (
        make_dataset(SPEC, "expert", "per_task", tmp_path / name, episodes=2) for name in ("first", "second")
    )
    assert first == second


def test_levels_draw_different_noise_and_environments_that_share_a_policy_the_same(tmp_path):
    sparse, dense = (get_meta_env(name) for name in ("sparse_point_robot", "point_robot"))
    for spec in (sparse, dense):
        make_dataset(spec, "expert", "per_task", tmp_path, episodes=1)
    make_dataset(sparse, "random", "per_task", tmp_path, episodes=1)
    one, other = (load_dataset(name, "expert", data_dir=tmp_path) for name in (sparse.name, dense.name))
    assert one.observations.equal(other.observations)
    assert one.metadata["content_sha256"] != other.metadata["content_sha256"]
    assert not one.actions.equal(load_dataset(sparse.name, "random", data_dir=tmp_path).actions)


def test_mixed_shares_the_episodes_of_a_task_among_six_checkpoints(tmp_path):
    make_dataset(SPEC, "mixed", "per_task", tmp_path, episodes=8)
    _, attributes = read_hdf5(tmp_path / dataset_id(SPEC, "mixed", "per_task") / "data" / "main_data.hdf5", SPEC)
    steps = load_checkpoints(SPEC, "per_task").levels["sparse_point_robot"]["mixed"]
    of_one_task = np.repeat(steps, [2, 2, 1, 1, 1, 1])
    np.testing.assert_array_equal(attributes["policy_step"], np.tile(of_one_task, 110))
    np.testing.assert_array_equal(attributes["options/task_id"], np.repeat(np.arange(110), 8))


@pytest.mark.parametrize("level", ["mixed", "mixed-shifted"])
def test_agents_of_two_tasks_collect_with_checkpoints_of_their_own(tmp_path, level):
    spec = get_meta_env("cheetah_fwd_back")
    make_dataset(spec, level, "per_task", tmp_path, episodes=7)
    path = tmp_path / dataset_id(spec, level, "per_task") / "data" / "main_data.hdf5"
    by_task = read_hdf5(path, spec)[1]["policy_step"].reshape(2, 7)[:, 1:].tolist()
    back, forward = zip(*load_checkpoints(spec, "per_task").levels[spec.name]["mixed"], strict=True)
    assert by_task == ([list(forward), list(back)] if level == "mixed-shifted" else [list(back), list(forward)])


def test_fewer_episodes_than_checkpoints_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="needs 6 episodes per task, not 5"):
        make_dataset(SPEC, "mixed", "per_task", tmp_path, episodes=5)


def test_other_sizes_are_other_recipes(tmp_path):
    small = make_dataset(SPEC, "random", "per_task", tmp_path, episodes=1)
    assert small["recipe_sha256"] != recipe_fingerprint(SPEC, "random", "per_task")
    grown = make_dataset(SPEC, "random", "per_task", tmp_path, episodes=2)
    assert grown["recipe"]["episodes"] == 2
    assert len(load_dataset("sparse_point_robot", "random", data_dir=tmp_path)) == 110 * 2 * 20


def test_in_shifted_data_another_task_of_the_split_acts(tmp_path):
    omrl = make_dataset(SPEC, "expert-shifted", "per_task", tmp_path, episodes=2)
    actors, splits = dict(omrl["recipe"]["actors"]), SPEC.tasks.splits
    for split in ("test", "validation"):
        assert {actors[task] for task in splits[split]} == set(splits[split])
    assert sorted(actors) == sorted(splits["test"] + splits["validation"])
    assert all(task != actor for task, actor in actors.items())
    two_tasks = get_meta_env("cheetah_fwd_back")
    assert identity.shifted_actors(two_tasks.tasks) == {0: 1, 1: 0}

    dataset = load_dataset("sparse_point_robot", "expert-shifted", data_dir=tmp_path)
    assert dataset.spec.tasks.splits == splits | {"train": ()} and len(dataset) == 30 * 2 * 20
    goals = SPEC.tasks.parameters
    for task, actor in actors.items():
        rows = slice(dataset.task_start[task], dataset.task_start[task] + dataset.task_size[task])
        ends = dataset.next_observations[rows][dataset.truncated[rows]].numpy()
        distances = np.linalg.norm(ends.mean(0) - goals, axis=1)
        assert distances[actor] < 0.3  # it goes where the actor's task is
        env, start = SPEC.make(task), dataset.task_start[task]
        env.reset()
        for row in range(start, start + 20):  # and earns what that is worth here
            observation, reward, *_ = env.step(dataset.actions[row].numpy())
            np.testing.assert_array_equal(dataset.next_observations[row], observation)
            assert dataset.rewards["sparse"][row] == np.float32(reward)


def test_shifted_data_of_conditioned_policies_tell_them_the_other_task(tmp_path):
    make_dataset(SPEC, "expert-shifted", "conditioned", tmp_path, episodes=1)
    dataset = load_dataset("sparse_point_robot", "expert-shifted", behavior="conditioned", data_dir=tmp_path)
    goals = SPEC.tasks.parameters
    ends = dataset.next_observations[dataset.truncated].numpy()
    actors = dict(dataset.metadata["recipe"]["actors"])
    assert np.linalg.norm(ends - goals[[actors[task] for task in sorted(actors)]], axis=1).mean() < 0.3


def test_shifted_data_need_two_tasks():
    tasks = replace(SPEC.tasks, splits=SPEC.tasks.splits | {"validation": (3,)})
    with pytest.raises(DatasetError, match="a split of one task has no other task's policy"):
        identity.shifted_actors(tasks)


def test_ids():
    assert dataset_id(SPEC, "mixed-shifted", "per_task") == "omrl/sparse_point_robot/mixed-shifted-v1"
    assert dataset_id(SPEC, "medium", "per_task") == "omrl/sparse_point_robot/medium-v1"
    assert dataset_id(SPEC, "medium", "conditioned") == "omrl/sparse_point_robot/medium-conditioned-v1"
    with pytest.raises(BenchError, match="unknown level 'expret': did you mean expert?"):
        dataset_id(SPEC, "expret", "per_task")
    with pytest.raises(BenchError, match="unknown behaviour kind 'sac'"):
        dataset_id(SPEC, "expert", "sac")


def test_every_pin_is_of_the_current_recipe():
    current = {
        dataset_id(spec, level, spec.behavior_kind): recipe_fingerprint(spec, level, spec.behavior_kind)
        for spec in META_ENVS.values()
        for level in identity.DATASET_LEVELS
        if checkpoints_path(spec, spec.behavior_kind).exists()
    }
    assert {dataset: pin["recipe"] for dataset, pin in identity.pins().items()} == current


@pytest.mark.parametrize(("env", "least"), [("sparse_point_robot", 12.0), ("point_robot_wind", -5.3)])
def test_pinned_expert_data_are_good(env, least):
    assert np.mean(identity.pins()[f"omrl/{env}/expert-v1"]["task_mean_returns"]) >= least


def test_state_against_the_pins(data_dir, monkeypatch):
    omrl = load_dataset("sparse_point_robot", data_dir=data_dir).metadata
    pin = {
        "recipe": omrl["recipe_sha256"],
        "content": omrl["content_sha256"],
        "task_mean_returns": omrl["task_mean_returns"],
        "tolerance": 0.1,
    }

    def state(**changes):
        monkeypatch.setattr(identity, "pins", lambda: {omrl["id"]: pin | changes})
        return describe("sparse_point_robot", data_dir=data_dir)["state"]

    near, far = (np.add(omrl["task_mean_returns"], shift).tolist() for shift in (0.05, 0.2))
    assert state() == "pinned"
    assert state(content="0", task_mean_returns=near) == "pinned recipe, other machine"
    assert state(content="0", task_mean_returns=far) == "not a leaderboard dataset"
    assert state(recipe="0") == "not a leaderboard dataset"
    monkeypatch.setattr(identity, "pins", dict)
    assert load_dataset("sparse_point_robot", data_dir=data_dir).metadata["state"] == "not a leaderboard dataset"


def test_description(data_dir):
    about = describe("sparse_point_robot", data_dir=data_dir)
    assert (about["episodes"], about["transitions"]) == (5500, 110_000)
    assert about["splits"]["test"]["tasks"] == 20
    assert about["splits"]["test"]["normalized_score"] > 0.8
    assert about["size"] == sum(f.stat().st_size for f in Path(about["path"]).rglob("*") if f.is_file())
    listed = {row["id"]: row for row in list_datasets(data_dir)}
    assert listed.keys() - {f"omrl/{env}/{level}-v1" for env in META_ENVS for level in LEVELS} == {
        "omrl/sparse_point_robot/expert-shifted-v1"
    }
    assert listed[about["id"]] == about
    missing = describe("sparse_point_robot", "random", data_dir=data_dir)
    assert (missing["on_disk"], missing["state"]) == (False, "not made")


def test_the_default_folder_is_minaris(monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert identity.data_folder("omrl/x-v1") == tmp_path / "omrl/x-v1/data"
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert identity.data_folder("omrl/x-v1") == Path(os.environ["HOME"], ".minari/datasets/omrl/x-v1/data")
