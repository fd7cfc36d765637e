"""Data of other programs: synthetic files of each documented form come out as the transitions that went in."""

import gzip
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
from numpy._core import multiarray, numeric

from omrlbench.cli import main
from omrlbench.data.dataset import MetaBatchSampler, MultiTaskDataset
from omrlbench.data.episodes import DatasetError
from omrlbench.data.importers import import_dataset, load_imported
from omrlbench.data.importers.unpickle import read_npy, read_pickle
from omrlbench.envs.point_robot import goals_and_winds, move, rewards_at
from omrlbench.envs.registry import get_meta_env
from omrlbench.errors import BenchError

POINT = get_meta_env("point_robot")
COLUMNS = ("observations", "actions", "rewards", "next_observations")
Steps = dict[str, np.ndarray]  # by the names in COLUMNS, one row per step


def walk(task: int, steps: int = 20, seed: int = 0, start: tuple[float, float] = (0.0, 0.0)) -> Steps:
    """An episode of a point robot in task `task` under random actions, float64."""
    generator = np.random.default_rng([seed, task])
    goal, wind = (values[0] for values in goals_and_winds(POINT, [task]))
    actions = generator.uniform(-1, 1, (steps, 2)).astype(np.float32)
    path = [np.array(start)]
    for action in actions:
        path.append(move(path[-1], action, wind))
    path = np.stack(path)
    return steps_of(path, actions, rewards_at(path[1:], goal)["dense"])


def drift(env: str, steps: int, seed: int = 0, task: int = 0) -> Steps:
    """An episode of random numbers with the sizes of `env`, each step beginning where the one before ended.

    The rewards of cheetahs are those of `task`.
    """
    spec = get_meta_env(env)
    space = spec.make(0)
    generator = np.random.default_rng(seed)
    path = generator.standard_normal((steps + 1, *space.observation_space.shape)).astype(np.float32)
    actions = generator.uniform(-1, 1, (steps, *space.action_space.shape)).astype(np.float32)
    rewards = generator.standard_normal(steps).astype(np.float32)
    if "cheetah" in env:
        velocity = np.diff(path[:, 17]) / spec.family().dt
        rewards = spec.family().reward(spec.tasks.parameters[[task]], velocity, actions).astype(np.float32)
    return steps_of(path, actions, rewards)


def steps_of(path: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> Steps:
    return dict(zip(COLUMNS, (path[:-1], actions, rewards, path[1:]), strict=True))


def joined(episodes: list[Steps]) -> Steps:
    return {name: np.concatenate([episode[name] for episode in episodes]) for name in COLUMNS}


def part(steps: Steps, index) -> Steps:
    return {name: values[index] for name, values in steps.items()}


def of_task(dataset: MultiTaskDataset, task: int) -> Steps:
    rows = slice(dataset.task_start[task], dataset.task_start[task] + dataset.task_size[task])
    tensors = (dataset.observations, dataset.actions, dataset.rewards["dense"], dataset.next_observations)
    return dict(zip(COLUMNS, (values[rows].numpy() for values in tensors), strict=True))


def lengths(dataset: MultiTaskDataset) -> list[int]:
    ends = np.flatnonzero((dataset.terminated | dataset.truncated).numpy()) + 1
    return np.diff(ends, prepend=0).tolist()


def assert_same(found: Steps, expected: Steps) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(found[name], expected[name].astype(np.float32), err_msg=name)


@pytest.fixture
def bring(tmp_path):
    """Import what the test has written below tmp_path/"source" and load it."""

    def run(format: str, env: str = "point_robot", path: Path | None = None, **choices) -> MultiTaskDataset:
        store = tmp_path / "store"
        import_dataset(format, path or tmp_path / "source", env, "mine", data_dir=store, **choices)
        return load_imported(env, "mine", data_dir=store)

    return run


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


# The unpickler


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


CONTENT = [
    {"a": np.arange(6.0).reshape(2, 3), "b": [np.float32(1.5), np.int64(-3), np.bool_(True), None, "text"]},
    (np.array([1, 2], np.int16), np.arange(6).reshape(2, 3).T, np.zeros((0, 4)), np.array(["x", "yz"]), True, 2**80),
    OrderedDict(nested=np.array([np.zeros(2), "s", 1.0], object), big_endian=np.arange(3, dtype=">f4")),
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("core", [b"numpy._core", b"numpy.core"])
def test_numbers_are_unpickled_as_they_were(tmp_path, protocol, core):
    content = pickle.dumps(CONTENT, protocol)
    if protocol < 4:
        content = content.replace(b"cnumpy._core", b"c" + core)
    (tmp_path / "numbers.pkl").write_bytes(content)
    found = read_pickle(tmp_path / "numbers.pkl", True)
    found[2]["nested"], expected = ([*values[2]["nested"]] for values in (found, CONTENT))
    np.testing.assert_equal(found, [*CONTENT[:2], CONTENT[2] | {"nested": expected}])
    assert type(found[0]["b"][0]) is np.float32


def forged(function, *arguments) -> type:
    return type("Forged", (), {"__reduce__": lambda self: (function, arguments)})


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (np.ndarray, ((1,), "O", b"12345678")),  # an object at a made-up address
        (numeric._frombuffer, (b"12345678", np.dtype("O"), (1,), "C")),
        (multiarray.scalar, (np.dtype("O"), b"12345678")),
        (np.dtype, ([("f", "O")],)),
        (np.dtype, ("V8",)),
        (getattr, (np.ndarray, "tofile")),
        (eval, ("1",)),
    ],
)
def test_calls_that_make_more_than_numbers_are_refused(tmp_path, function, arguments):
    (tmp_path / "forged.pkl").write_bytes(pickle.dumps(forged(function, *arguments)()))
    with pytest.raises(DatasetError, match="forged.pkl: the pickle is not read: "):
        read_pickle(tmp_path / "forged.pkl", True)


def test_an_array_whose_content_is_of_another_size_is_refused(tmp_path):
    content = pickle.dumps(np.arange(4.0), 2).replace(b"K\x04\x85", b"K\x7f\x85")
    (tmp_path / "forged.pkl").write_bytes(content)
    with pytest.raises(DatasetError, match="does not have the array's size"):
        read_pickle(tmp_path / "forged.pkl", True)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_does_not_run(tmp_path, protocol):
    content = pickle.dumps([np.zeros(2), Malicious(tmp_path / "harm")], protocol)
    (tmp_path / "bad.pkl").write_bytes(content)
    (tmp_path / "bad.zip_pkl").write_bytes(gzip.compress(content))
    np.save(tmp_path / "bad.npy", np.array([[Malicious(tmp_path / "harm")]], object))
    for name, read in (("bad.pkl", read_pickle), ("bad.zip_pkl", read_pickle), ("bad.npy", read_npy)):
        with pytest.raises(DatasetError, match=f"{name}: the pickle is not read: it asks for .*mkdir") as caught:
            read(tmp_path / name, True)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()
    pickle.loads(content)
    assert (tmp_path / "harm").exists()


def test_arrays_of_numbers_need_no_pickle(tmp_path):
    np.save(tmp_path / "plain.npy", np.arange(3))
    np.testing.assert_array_equal(read_npy(tmp_path / "plain.npy", False), np.arange(3))
    (tmp_path / "broken.npy").write_bytes(b"no array")
    with pytest.raises(DatasetError, match="broken.npy: cannot be read: "):
        read_npy(tmp_path / "broken.npy", False)


# FOCAL


def write_focal(folder: Path, task: int, n: int, step: int, steps: Steps, name: str = "evalsample") -> Path:
    observations = list(steps["observations"])
    if not observations[0].any():
        observations[0] = np.zeros(len(observations[0]), np.int64)  # as point robots do
    table = np.empty((len(observations), 4), object)
    for row, values in enumerate(zip(observations, *(steps[key] for key in COLUMNS[1:]), strict=True)):
        table[row] = values
    file = folder / f"goal_idx{task}" / f"trj_{name}{n}_step{step}.npy"
    file.parent.mkdir(exist_ok=True)
    np.save(file, table)
    return file


@pytest.mark.parametrize("env", ["point_robot", "sparse_point_robot"])
def test_focal(source, bring, env):
    episodes = {
        (task, n, step): walk(task, seed=n + step) for task in (2, 10) for n in (0, 1, 10) for step in (9, 4800)
    }
    for key, steps in episodes.items():
        write_focal(source, *key, steps)
    dataset = bring("focal", env, allow_pickle=True)
    for task in (2, 10):
        order = [(9, 0), (9, 1), (9, 10), (4800, 0), (4800, 1), (4800, 10)]
        assert_same(of_task(dataset, task), joined([episodes[task, n, step] for step, n in order]))
    assert lengths(dataset) == 12 * [20]
    assert not dataset.terminated.any()
    distance = -dataset.rewards["dense"].numpy()
    if env == "sparse_point_robot":
        sparse = np.where(distance <= 0.2, 1 - distance, 0)
        np.testing.assert_allclose(dataset.rewards["sparse"], sparse, atol=1e-6)
    assert dataset.metadata["state"] == "not a leaderboard dataset"
    assert dataset.metadata["origin"]["tasks"][1] == {
        "task": 10,
        "source": "goal_idx10",
        "episodes": 6,
        "identified": "by comparing the data with what the task gives",
        "parameters": None,
    }
    assert dataset.metadata["origin"]["remarks"] == {
        "trajectories whose number is missing between others": 4 * 8,
    }


def test_focal_takes_the_training_steps_asked_for(source, bring, tmp_path):
    for step in (200, 4800):
        write_focal(source, 0, 0, step, walk(0, seed=step))
    dataset = bring("focal", allow_pickle=True, steps=[4800])
    assert_same(of_task(dataset, 0), walk(0, seed=4800))
    stored = minari.MinariDataset(tmp_path / "store/omrl/point_robot/mine-v1/data")
    assert [about["policy_step"] for about in stored.storage.get_episode_metadata([0])] == [4800]
    with pytest.raises(DatasetError, match="goal_idx0: holds no trj_.* of the steps asked for; there are 200, 4800"):
        bring("focal", allow_pickle=True, steps=[600])


def test_focal_does_not_skip_what_is_missing(source, bring):
    write_focal(source, 0, 0, 200, walk(0))
    write_focal(source, 0, 0, 200, walk(0), name="eval")
    assert bring("focal", allow_pickle=True).metadata["origin"]["remarks"] == {
        "deterministic trajectories, left out": 1
    }
    (source / "goal_idx1").mkdir()
    with pytest.raises(DatasetError, match="goal_idx1: holds no trj_evalsample<n>_step<k>.npy"):
        bring("focal", allow_pickle=True)


def test_focal_needs_the_permission_to_read_pickles(source, bring):
    write_focal(source, 0, 0, 200, walk(0))
    with pytest.raises(DatasetError, match="trj_evalsample0_step200.npy: is a pickle.*--allow-pickle"):
        bring("focal")


def test_focal_trajectories_of_ten_horizons_are_cut_and_complete(source, bring):
    write_focal(source, 3, 0, 200, walk(3, steps=200))
    dataset = bring("focal", allow_pickle=True)
    assert_same(of_task(dataset, 3), walk(3, steps=200))
    assert lengths(dataset) == 10 * [20]
    assert dataset.metadata["origin"]["remarks"] == {"episodes longer than 20 steps, cut into pieces": 1}


def test_focal_has_no_terminals_so_an_early_end_is_one_only_where_there_can_be(source, bring):
    for n, steps in enumerate((200, 57)):
        write_focal(source, 0, n, 200, drift("ant_fwd_back", steps, n))
        write_focal(source, 1, n, 200, drift("ant_fwd_back", steps, n))
    dataset = bring("focal", "ant_fwd_back", allow_pickle=True)
    assert lengths(dataset) == [200, 57, 200, 57]
    assert np.flatnonzero(dataset.terminated).tolist() == [256, 513]
    assert np.flatnonzero(dataset.truncated).tolist() == [199, 456]
    assert {task["identified"] for task in dataset.metadata["origin"]["tasks"]} == {"by number, not compared"}


def test_focal_observations_divided_by_their_largest_are_multiplied_again(source, bring):
    steps, largest = walk(5), np.array([2.0, 0.5])
    divided = {name: values / (largest + 1e-8) if "obs" in name else values for name, values in steps.items()}
    write_focal(source, 5, 0, 200, divided)
    np.savez(source / "normalizer.npz", abs_max=largest)
    found = of_task(bring("focal", allow_pickle=True), 5)
    np.testing.assert_allclose(found["observations"], steps["observations"], atol=1e-6)
    write_focal(source, 5, 0, 200, {name: 3 * values for name, values in drift("point_robot", 20).items()})
    with pytest.raises(DatasetError, match="observations exceed 1, so they are not normalised; remove normalizer.npz"):
        bring("focal", allow_pickle=True, overwrite=True)


def test_focal_folders_of_normalised_data_without_the_normaliser_are_refused(source, bring):
    folder = source.rename(source.with_name("walker_new_norm"))
    write_focal(folder, 0, 0, 200, walk(0))
    with pytest.raises(DatasetError, match="normalizer.npz is missing"):
        bring("focal", path=folder, allow_pickle=True)


def test_focal_walkers_are_no_tasks_of_ours(source, bring):
    write_focal(source, 0, 0, 200, drift("walker_params", 30))
    (source / "goal_idx0/log.txt").write_text("{'body_mass': array([[1.0]])}")
    with pytest.raises(DatasetError, match="parameters are of no task of walker_params; --by-number"):
        bring("focal", "walker_params", allow_pickle=True)
    dataset = bring("focal", "walker_params", allow_pickle=True, by_number=True)
    (task,) = dataset.metadata["origin"]["tasks"]
    assert task["parameters"] == {"log.txt": "{'body_mass': array([[1.0]])}"}
    assert task["identified"] == "by number, as asked for; they may be others than those here"
    assert dataset.terminated.sum() == 1


def test_focal_files_that_are_not_one_trajectory_are_refused(source, bring):
    file = write_focal(source, 0, 0, 200, joined([walk(0), walk(0, seed=1)]))
    with pytest.raises(DatasetError, match=r"trj_evalsample0_step200.npy: step 20 does not begin where"):
        bring("focal", allow_pickle=True)
    np.save(file, np.zeros((5, 3)))
    with pytest.raises(DatasetError, match=r"the array has shape \(5, 3\), expected \(T, 4\)"):
        bring("focal", allow_pickle=True)


# BOReL and those after it


def write_borel(folder: Path, columns: Steps, terminals: np.ndarray | None = None) -> None:
    folder.mkdir()
    shape = columns["rewards"].shape
    arrays = {
        "obs": columns["observations"],
        "next_obs": columns["next_observations"],
        "actions": columns["actions"].astype(np.float64),
        "rewards": columns["rewards"][..., None],
        "terminals": np.zeros((*shape, 1), np.uint8) if terminals is None else terminals.astype(np.uint8)[..., None],
    }
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)


def goal_name(task: int) -> str:
    return "_".join(["goal", *(str(value) for value in POINT.tasks.parameters[task].round(3))])


def test_borel_tasks_are_found_by_their_goals(source, bring):
    episodes = {task: [walk(task, seed=k) for k in range(3)] for task in (4, 99)}
    for seed, (task, parts) in enumerate(episodes.items()):
        write_borel(source / f"seed_{9 - seed}_{goal_name(task)}", joined(parts))
    again = walk(4, seed=7)
    write_borel(source / goal_name(4), again)
    dataset = bring("borel")
    assert_same(of_task(dataset, 4), joined([again, *episodes[4]]))
    assert_same(of_task(dataset, 99), joined(episodes[99]))
    assert lengths(dataset) == 7 * [20]
    assert dataset.metadata["origin"]["tasks"][2]["parameters"] == POINT.tasks.parameters[4].round(3).tolist()
    dataset = bring("borel", by_number=True, overwrite=True)
    assert np.flatnonzero(dataset.task_size).tolist() == [0, 1, 2]


def test_borel_goals_that_are_none_of_ours_are_refused(source, bring):
    write_borel(source / "seed_1_goal_0.5_0.5", walk(0))
    with pytest.raises(DatasetError, match="obs.npy: its parameters are of no task of point_robot; --by-number"):
        bring("borel")
    (source / "seed_1_goal_0.5_0.5").rename(source / "seed_1_goal_left")
    with pytest.raises(DatasetError, match="'left' is no goal"):
        bring("borel")


def test_borel_rollouts_as_an_axis(source, bring):
    episodes = [walk(4, seed=k) for k in range(3)]
    stacked = {name: np.stack([episode[name] for episode in episodes], 1) for name in COLUMNS}
    write_borel(source / goal_name(4), stacked)
    assert_same(of_task(bring("borel"), 4), joined(episodes))


def flagged(first: Steps, second: Steps) -> Steps:
    """A rollout of two episodes as BOReL stores it: flags, and the first step of the second from the old place."""
    rollout = joined([first, second])
    inner = len(first["rewards"])
    rollout["observations"][inner] = first["next_observations"][-1]
    close = np.zeros((len(rollout["rewards"]), 1))
    close[[inner - 1, -1]] = 1
    stale = np.zeros_like(close)
    stale[inner] = 1
    flags = {"observations": stale, "next_observations": close}
    return rollout | {name: np.concatenate([rollout[name], flag], 1) for name, flag in flags.items()}


def test_borel_second_episodes_lose_the_step_whose_start_is_not_stored(source, bring):
    episodes = [walk(4, seed=k) for k in range(4)]
    rollouts = [flagged(*episodes[:2]), flagged(*episodes[2:])]
    goal_reached = np.arange(80) % 20 > 15
    write_borel(source / goal_name(4), joined(rollouts), goal_reached)
    dataset = bring("borel")
    kept = [episodes[0], part(episodes[1], slice(1, None)), episodes[2], part(episodes[3], slice(1, None))]
    assert_same(of_task(dataset, 4), joined(kept))
    assert lengths(dataset) == [20, 19, 20, 19]
    assert not dataset.terminated.any()
    assert list(dataset.metadata["origin"]["remarks"].values()) == [2]


def test_borel_files_that_are_missing_or_not_to_be_believed(source, bring):
    write_borel(source / goal_name(4), walk(4))
    (source / goal_name(4) / "rewards.npy").rename(source / goal_name(4) / "reward_goal.npy")
    with pytest.raises(DatasetError, match="rewards of ants are of random goals"):
        bring("borel")
    (source / goal_name(4) / "reward_goal.npy").unlink()
    with pytest.raises(DatasetError, match="rewards.npy: is missing"):
        bring("borel")


def test_borel_observations_with_a_belief_do_not_fit(source, bring):
    wide = {name: np.pad(values, ((0, 0), (0, 10))) if "obs" in name else values for name, values in walk(4).items()}
    write_borel(source / goal_name(4), wide)
    with pytest.raises(DatasetError, match=r"observations \(20, 12\), point_robot needs \(20, 2\)"):
        bring("borel")


# MACAW


def macaw_rows(episodes: list[Steps], terminal: list[bool], discount: float = 0.99) -> dict[str, np.ndarray]:
    """The columns as MACAW's buffer holds them: every trajectory from its last step to its first."""
    backwards = [part(steps, slice(None, None, -1)) for steps in episodes]
    rows = joined(backwards)
    counts = [len(steps["rewards"]) for steps in episodes]
    return {
        "obs": rows["observations"],
        "actions": rows["actions"],
        "rewards": rows["rewards"][:, None],
        "next_obs": rows["next_observations"],
        "terminals": np.concatenate([np.arange(n) < int(end) for n, end in zip(counts, terminal, strict=True)])[
            :, None
        ],
        "terminal_discounts": np.concatenate([discount ** np.arange(1, n + 1) for n in counts])[:, None].astype("f4"),
    }


def write_macaw(folder: Path, task: int, columns: dict[str, np.ndarray], env: str = "cheetah_vel") -> None:
    with h5py.File(folder / f"buffers_{env}_train_{task}_sub_task_0.hdf5", "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, compression="lzf")
        file.create_dataset("discount_factor", data=0.99)


def test_macaw_trajectories_are_turned_and_time_limits_are_no_ends(source, bring):
    episodes = [drift("ant_fwd_back", steps, steps) for steps in (5, 200, 3)]
    write_macaw(source, 1, macaw_rows(episodes, [True, True, False]), "ant_dir")
    dataset = bring("macaw", "ant_fwd_back", by_number=True)
    assert_same(of_task(dataset, 1), joined(episodes))
    assert lengths(dataset) == [5, 200, 3]
    assert np.flatnonzero(dataset.terminated).tolist() == [4]
    cheetah = [drift("cheetah_vel", steps, steps) for steps in (200, 50)]
    write_macaw(source.parent, 0, macaw_rows(cheetah, [True, True]))
    dataset = bring("macaw", "cheetah_vel", path=source.parent, by_number=True)
    assert_same(of_task(dataset, 0), joined(cheetah))
    assert not dataset.terminated.any()


def test_macaw_buffers_that_wrapped_lose_no_step(source, bring):
    episodes = [drift("cheetah_vel", 8, seed) for seed in range(3)]
    columns = macaw_rows(episodes, [True, True, True])
    ring = {name: np.concatenate([values[20:], values[4:20]]) for name, values in columns.items()}
    write_macaw(source, 0, ring)
    dataset = bring("macaw", "cheetah_vel", by_number=True)
    pieces = [
        part(episodes[2], slice(0, 4)),
        part(episodes[0], slice(0, 4)),
        episodes[1],
        part(episodes[2], slice(4, 8)),
    ]
    assert_same(of_task(dataset, 0), joined(pieces))


def test_macaw_files_in_the_order_of_time_are_refused(source, bring):
    columns = macaw_rows([drift("cheetah_vel", 8)], [True])
    write_macaw(source, 0, {name: values[::-1] for name, values in columns.items()})
    with pytest.raises(DatasetError, match="rows are in the order of time, those of MACAW are not"):
        bring("macaw", "cheetah_vel", by_number=True)


def test_macaw_tasks_are_told_by_pickles(source, bring):
    spec = get_meta_env("cheetah_vel")
    steps = drift("cheetah_vel", 8, task=57)
    write_macaw(source, 3, macaw_rows([steps], [True]))
    with pytest.raises(DatasetError, match="no env_.*states its parameters, not those of cheetah_vel; --by-number"):
        bring("macaw", "cheetah_vel")
    stated = source / "env_cheetah_vel_train_task3.pkl"
    stated.write_bytes(pickle.dumps([{"velocity": spec.tasks.parameters[57, 0]}]))
    with pytest.raises(DatasetError, match="--allow-pickle reads it, --by-number does without it"):
        bring("macaw", "cheetah_vel")
    dataset = bring("macaw", "cheetah_vel", allow_pickle=True)
    assert np.flatnonzero(dataset.task_size).tolist() == [57]
    assert dataset.metadata["origin"]["tasks"][0]["parameters"] == {"velocity": spec.tasks.parameters[57, 0]}
    for foreign in ({"velocity": 0.15}, {"direction": 1}, {"velocity": "fast"}):
        stated.write_bytes(pickle.dumps([foreign]))
        with pytest.raises(DatasetError, match="env_|no task of cheetah_vel|cannot be read"):
            bring("macaw", "cheetah_vel", allow_pickle=True)
    stated.write_bytes(pickle.dumps({"velocity": 0.15}))
    with pytest.raises(DatasetError, match="is not a list of one dictionary"):
        bring("macaw", "cheetah_vel", allow_pickle=True)
    dataset = bring("macaw", "cheetah_vel", by_number=True, overwrite=True)
    assert np.flatnonzero(dataset.task_size).tolist() == [3]


def test_hdf5_files_that_are_no_such_files(source, bring):
    file = source / "buffers_cheetah_vel_train_0_sub_task_0.hdf5"
    file.write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="hdf5: cannot be read: "):
        bring("macaw", "cheetah_vel", by_number=True)
    columns = macaw_rows([drift("cheetah_vel", 8)], [True])
    del columns["terminal_discounts"]
    write_macaw(source, 0, columns)
    with pytest.raises(DatasetError, match="hdf5: has no terminal_discounts"):
        bring("macaw", "cheetah_vel", by_number=True)


# MBML


def write_mbml(folder: Path, goal: int, episodes: list[Steps], ended: list[bool]) -> None:
    rows = []
    for steps, end in zip(episodes, ended, strict=True):
        for t in range(len(steps["rewards"])):
            done = np.array([end and t == len(steps["rewards"]) - 1])
            reward = steps["rewards"][t : t + 1]
            first, last = steps["observations"][t], steps["next_observations"][t]
            rows.append((first, last, steps["actions"][t], reward, done, np.zeros(9), np.zeros(9)))
    (folder / f"goal_{goal:02d}.zip_pkl").write_bytes(gzip.compress(pickle.dumps(rows)))


def test_mbml(source, bring):
    episodes = [drift("walker_params", steps, steps) for steps in (30, 200, 12)]
    write_mbml(source, 7, episodes, [True, False, False])
    with pytest.raises(DatasetError, match="goal_07.zip_pkl: is a pickle"):
        bring("mbml", "walker_params", by_number=True)
    with pytest.raises(DatasetError, match="the source has goals of its own, not those of walker_params; --by-number"):
        bring("mbml", "walker_params", allow_pickle=True)
    dataset = bring("mbml", "walker_params", allow_pickle=True, by_number=True)
    assert_same(of_task(dataset, 7), joined(episodes))
    assert lengths(dataset) == [30, 200, 12]
    assert np.flatnonzero(dataset.terminated).tolist() == [29]


def test_mbml_pickles_of_another_form_are_refused(source, bring):
    (source / "goal_00.zip_pkl").write_bytes(gzip.compress(pickle.dumps({"no": "list"})))
    with pytest.raises(DatasetError, match="goal_00.zip_pkl: is not a list of tuples"):
        bring("mbml", "walker_params", allow_pickle=True, by_number=True)
    (source / "goal_00.zip_pkl").write_bytes(gzip.compress(b"cut off")[:-4])
    with pytest.raises(DatasetError, match="goal_00.zip_pkl: the pickle is not read: "):
        bring("mbml", "walker_params", allow_pickle=True, by_number=True)


# Meta-DT


def write_metadt(folder: Path, task: int, steps: Steps, terminals: np.ndarray, masks: np.ndarray | None) -> None:
    content = OrderedDict(steps | {"terminals": terminals} | ({} if masks is None else {"masks": masks}))
    (folder / f"dataset_task_{task}.pkl").write_bytes(pickle.dumps(content))


def write_task_info(folder: Path, goals: dict[int, list[float]], name: str = "task_info.json") -> None:
    table = {f"task {task}": {"goal": goal, "return_scale": [-9.0, -1.0]} for task, goal in goals.items()}
    (folder / name).write_text(json.dumps(table))


def test_metadt_point_robots_act_in_a_tenth_of_the_range(source, bring):
    tasks = {0: 4, 1: 99}  # theirs -> ours
    for number, task in tasks.items():
        steps = joined([walk(task, seed=k) for k in range(3)])
        never = np.zeros(60, bool)
        write_metadt(source, number, steps | {"actions": 0.1 * steps["actions"]}, never, ~never)
        write_task_info(source, {number: POINT.tasks.parameters[task].tolist()}, f"task_info_{number}.json")
        (source / f"dataset_task_prompt{number}.pkl").write_bytes(pickle.dumps([steps]))
    with pytest.raises(DatasetError, match="its steps .*--action-scale.* are not those of task 4"):
        bring("metadt", allow_pickle=True)
    with pytest.raises(DatasetError, match="no action exceeds 0.1 of 1; add --action-scale 0.1 if"):
        bring("metadt", allow_pickle=True, by_number=True)
    dataset = bring("metadt", allow_pickle=True, action_scale=0.1)
    for task in tasks.values():
        found, expected = of_task(dataset, task), joined([walk(task, seed=k) for k in range(3)])
        np.testing.assert_allclose(found.pop("actions"), expected["actions"], atol=1e-7)
        np.testing.assert_array_equal(found["observations"], expected["observations"].astype(np.float32))
    assert lengths(dataset) == 6 * [20]
    assert dataset.metadata["origin"]["remarks"] == {"files of prompts, left out": 2}


def test_metadt_masks_tell_ends_from_time_limits(source, bring):
    episodes = [drift("ant_fwd_back", steps, steps) for steps in (30, 40, 50)]
    terminals = np.isin(np.arange(120), (29, 69, 119))
    write_metadt(source, 0, joined(episodes), terminals, np.arange(120) != 69)
    dataset = bring("metadt", "ant_fwd_back", allow_pickle=True, by_number=True)
    assert_same(of_task(dataset, 0), joined(episodes))
    assert lengths(dataset) == [30, 40, 50]
    assert np.flatnonzero(dataset.terminated).tolist() == [69]


def test_metadt_other_names_and_no_goals(source, bring):
    steps = drift("cheetah_fwd_back", 200, task=1)
    columns = {"states": steps["observations"], "next_states": steps["next_observations"]}
    columns |= {name: steps[name] for name in ("actions", "rewards")} | {"dones": np.zeros((200, 1), bool)}
    (source / "dataset_task_0.pkl").write_bytes(pickle.dumps(columns))
    with pytest.raises(DatasetError, match="no task_info.json states its goal, not those of cheetah_fwd_back"):
        bring("metadt", "cheetah_fwd_back", allow_pickle=True)
    write_task_info(source, {0: [1]})
    dataset = bring("metadt", "cheetah_fwd_back", allow_pickle=True)
    assert_same(of_task(dataset, 1), steps)
    del columns["dones"]
    (source / "dataset_task_0.pkl").write_bytes(pickle.dumps(columns))
    with pytest.raises(DatasetError, match="dataset_task_0.pkl: has no terminals"):
        bring("metadt", "cheetah_fwd_back", allow_pickle=True, overwrite=True)


# D4RL


def write_d4rl(file: Path, columns: dict[str, np.ndarray]) -> Path:
    with h5py.File(file, "w") as stored:
        for name, values in columns.items():
            stored[name] = values
        stored["infos/qpos"] = np.zeros(3)
    return file


def test_d4rl(source, bring):
    episodes = [drift("ant_fwd_back", steps, steps) for steps in (30, 40, 200, 12)]
    marks = {"terminals": np.isin(np.arange(282), (29, 269)), "timeouts": np.isin(np.arange(282), (69, 269))}
    write_d4rl(source / "ant-medium-v2_task_1.hdf5", joined(episodes) | marks)
    dataset = bring("d4rl", "ant_fwd_back")
    assert_same(of_task(dataset, 1), joined(episodes))
    assert lengths(dataset) == [30, 40, 200, 12]
    assert np.flatnonzero(dataset.terminated).tolist() == [29]


def test_d4rl_without_next_observations_loses_last_steps(source, bring):
    episodes = [walk(3, seed=k) for k in range(3)] + [walk(3, steps=7)]
    columns = joined(episodes) | {"terminals": np.zeros(67)}
    del columns["next_observations"]
    file = write_d4rl(source / "task3.h5", columns | {"rewards": columns["rewards"][:, None]})
    dataset = bring("d4rl", path=file)
    assert_same(of_task(dataset, 3), joined([part(steps, slice(0, -1)) for steps in episodes]))
    assert lengths(dataset) == [19, 19, 19, 6]
    assert list(dataset.metadata["origin"]["remarks"].values()) == [4]
    steps = drift("ant_fwd_back", 20)
    del steps["next_observations"]
    file = write_d4rl(source / "task_0.hdf5", steps | {"terminals": np.arange(20) == 9})
    with pytest.raises(DatasetError, match="task_0.hdf5: row 9 is terminal and there are no next_observations"):
        bring("d4rl", "ant_fwd_back", path=file)


def test_d4rl_names_tell_the_task(source, bring):
    file = write_d4rl(source / "halfcheetah_medium-v2.hdf5", walk(0) | {"terminals": np.zeros(20)})
    with pytest.raises(DatasetError, match="the name does not tell the task; call it task_<k>.hdf5"):
        bring("d4rl", path=file)
    with pytest.raises(DatasetError, match="source: holds no file ...task_<k>.hdf5"):
        bring("d4rl")
    for name in ("task_110.hdf5", "task110.h5"):
        write_d4rl(source / name, walk(0) | {"terminals": np.zeros(20)})
    with pytest.raises(DatasetError, match="task110.h5 and task_110.hdf5 are both of task 110"):
        bring("d4rl")
    (source / "task110.h5").unlink()
    with pytest.raises(DatasetError, match="task_110.hdf5: is of task 110, point_robot has tasks 0 to 109"):
        bring("d4rl")


# What all have in common


@pytest.fixture
def point_robot(source):
    """Writes a D4RL file of task 3 with some columns replaced."""

    def write(**changes) -> None:
        write_d4rl(source / "task_3.hdf5", joined([walk(3), walk(3, seed=1)]) | {"terminals": np.zeros(40)} | changes)

    write()
    return write


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"observations": np.zeros((40, 3))}, r"observations \(40, 3\), point_robot needs \(40, 2\)"),
        ({"actions": np.zeros((39, 2))}, r"actions \(39, 2\), point_robot needs \(40, 2\)"),
        ({"rewards": np.full(40, np.nan)}, "rewards hold NaN or infinity"),
        ({"actions": np.full((40, 2), 1.5)}, r"actions reach 1.5, they are within \[-1, 1\] here; --action-scale SIZE"),
        ({"terminals": np.zeros(7)}, "7 flags for 40 steps"),
        ({"rewards": np.zeros(40)}, r"its rewards \(see --by-number\) are not the dense ones of task 3"),
        ({"next_observations": np.zeros((40, 2))}, r"its steps \(see .*\) are not those of task 3 of point_robot"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(point_robot, bring, tmp_path, changes, reason):
    point_robot(**changes)
    with pytest.raises(DatasetError, match=f"task_3.hdf5: {reason}") as caught:
        bring("d4rl")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "store").rglob("*.hdf5"))


def test_point_robots_of_another_task_are_refused(source, bring):
    write_d4rl(source / "task_3.hdf5", walk(4) | {"terminals": np.zeros(20)})
    with pytest.raises(DatasetError, match="its rewards .* are not the dense ones of task 3"):
        bring("d4rl")
    dataset = bring("d4rl", "sparse_point_robot", by_number=True)
    assert_same(of_task(dataset, 3), walk(4))
    write_d4rl(source / "task_3.hdf5", walk(4) | {"terminals": np.zeros(20), "rewards": np.full(20, 0.9)})
    with pytest.raises(DatasetError, match="rewards are positive"):
        bring("d4rl", "sparse_point_robot", by_number=True, overwrite=True)


@pytest.mark.parametrize("late", [False, True])
def test_cheetahs_of_another_velocity_are_refused(source, bring, late):
    spec = get_meta_env("cheetah_vel")
    slow, fast = np.argsort(spec.tasks.parameters[:, 0])[[0, 50]].tolist()
    steps = drift("cheetah_vel", 200, task=slow)
    if late:  # as simulators that observe the torso 0.01 s late
        steps["rewards"] += np.random.default_rng(0).normal(0, 0.1, 200).astype(np.float32)
    write_d4rl(source / f"task_{slow}.hdf5", steps | {"terminals": np.zeros(200)})
    dataset = bring("d4rl", "cheetah_vel")
    assert dataset.metadata["origin"]["tasks"][0]["identified"] == "by comparing the data with what the task gives"
    (source / f"task_{slow}.hdf5").rename(source / f"task_{fast}.hdf5")
    with pytest.raises(
        DatasetError, match=rf"its rewards \(see --by-number\) differ by .* of task {fast} of cheetah_vel"
    ):
        bring("d4rl", "cheetah_vel", overwrite=True)
    assert len(bring("d4rl", "cheetah_vel", by_number=True, overwrite=True)) == 200


def test_episodes_are_taken_evenly(source, bring):
    episodes = [walk(3, seed=k) for k in range(9)]
    write_d4rl(source / "task_3.hdf5", joined(episodes) | {"terminals": np.zeros(180)})
    assert_same(of_task(bring("d4rl", episodes=3), 3), joined([episodes[k] for k in (0, 4, 8)]))
    assert len(bring("d4rl", episodes=30, overwrite=True)) == 180


def test_splits_list_only_tasks_with_data_and_batches_are_of_these(source, bring):
    train, test = POINT.tasks.splits["train"][:3], POINT.tasks.splits["test"][:2]
    for task in (*train, *test):
        write_d4rl(source / f"task_{task}.hdf5", walk(task) | {"terminals": np.zeros(20)})
    dataset = bring("d4rl")
    assert dataset.spec.tasks.splits == {"train": train, "validation": (), "test": test}
    assert len(dataset.task_size) == len(dataset.task_start) == len(POINT.tasks)
    batch = MetaBatchSampler(dataset, "dense", 3, 64, 8, True, np.random.default_rng(0)).sample()
    goals = POINT.tasks.parameters[list(train)]
    for rewards, arrivals in zip(batch.rewards.numpy(), batch.next_observations.numpy(), strict=True):
        fits = [np.allclose(rewards_at(arrivals, goal)["dense"], rewards, atol=1e-5) for goal in goals]
        assert sum(fits) == 1


def test_minari_reads_it(point_robot, bring, tmp_path, monkeypatch):
    dataset = bring("d4rl")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    stored = minari.load_dataset("omrl/point_robot/mine-v1")
    assert (stored.total_episodes, stored.total_steps) == (2, 40)
    np.testing.assert_array_equal(stored[1].actions, dataset.actions[20:])
    assert stored[1].observations.shape == (21, 2)
    (about,) = stored.storage.get_episode_metadata([1])
    assert about["options"] == {"task_id": 3} and about["policy_step"] == -1
    assert about["return"] == pytest.approx(walk(3, seed=1)["rewards"].sum())
    assert dataset.metadata["task_mean_returns"][2] is None
    assert dataset.metadata["id"] == "omrl/point_robot/mine-v1"


def test_the_same_sources_are_left_alone_and_others_need_permission(point_robot, bring, tmp_path):
    bring("d4rl")
    (file,) = (tmp_path / "store").rglob("main_data.hdf5")
    written = file.stat().st_mtime_ns
    first = bring("d4rl").metadata
    assert file.stat().st_mtime_ns == written
    point_robot(observations=joined([walk(3), walk(3, seed=1)])["observations"] + 1e-6)
    with pytest.raises(DatasetError, match="mine-v1: exists and is not .* these sources; .* --overwrite"):
        bring("d4rl")
    second = bring("d4rl", overwrite=True).metadata
    assert first["origin"]["sha256"] != second["origin"]["sha256"]


def test_damage_and_other_versions_are_seen_when_loading(point_robot, bring, tmp_path, monkeypatch):
    bring("d4rl")
    store = tmp_path / "store"
    (file,) = store.rglob("main_data.hdf5")
    (index,) = store.rglob("index.npz")
    kept = index.read_bytes()
    index.unlink()
    assert len(load_imported("point_robot", "mine", data_dir=store)) == 40
    index.write_bytes(kept)
    content = bytearray(file.read_bytes())
    content[int(np.load(index)["actions"][0])] ^= 1
    file.write_bytes(content)
    with pytest.raises(DatasetError, match="main_data.hdf5: the content does not have its SHA-256; import it again"):
        load_imported("point_robot", "mine", data_dir=store)
    monkeypatch.setattr("omrlbench.data.importers.imported._world", lambda spec: {"env_revision": 9})
    with pytest.raises(DatasetError, match="was imported for another env_revision; import it again"):
        load_imported("point_robot", "mine", data_dir=store)


def test_names(point_robot, tmp_path):
    for name, reason in (("expert", "kept for the data made here"), ("a/b", "letters"), ("mixed-per_task", "kept")):
        with pytest.raises(BenchError, match=reason):
            import_dataset("d4rl", tmp_path, "point_robot", name)
    with pytest.raises(BenchError, match="unknown format 'd4lr': did you mean d4rl?"):
        import_dataset("d4lr", tmp_path, "point_robot", "mine")
    with pytest.raises(BenchError, match="--step is for focal"):
        import_dataset("d4rl", tmp_path, "point_robot", "mine", steps=[3])
    with pytest.raises(DatasetError, match="nothing: does not exist"):
        import_dataset("d4rl", tmp_path / "nothing", "point_robot", "mine")
    with pytest.raises(DatasetError, match="omrl/point_robot/mine-v1: not there; import it: bench data import"):
        load_imported("point_robot", "mine", data_dir=tmp_path)


def test_command(point_robot, tmp_path, capsys):
    arguments = ["data", "import", "d4rl", str(tmp_path / "source"), "--env", "point_robot", "--name", "mine"]
    place = ["--data-dir", str(tmp_path / "store")]
    with pytest.raises(SystemExit) as done:
        main([*arguments, *place])
    assert done.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        f"dataset: {tmp_path / 'store/omrl/point_robot/mine-v1'}",
        "40 transitions in 2 episodes of 1 tasks",
        "tasks identified by comparing the data with what the task gives",
    ]
    with pytest.raises(SystemExit) as done:
        main([*arguments, *place, "--overwrite", "--action-scale", "2"])
    assert done.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bench: {tmp_path / 'source/task_3.hdf5'}: its steps (see --by-number")
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as done:
        main([*arguments, "--data-dir", str(tmp_path / "file")])
    assert done.value.code == 1
    assert capsys.readouterr().err.startswith("bench: cannot write omrl/point_robot/mine-v1 below")


def test_commands_list_show_and_check_imports(point_robot, bring, tmp_path, capsys):
    bring("d4rl", "point_robot")
    place = ["--data-dir", str(tmp_path / "store")]

    def bench(*arguments):
        with pytest.raises(SystemExit) as done:
            main(["data", *arguments, *place])
        printed = capsys.readouterr()
        return done.value.code, printed.out + printed.err

    assert "omrl/point_robot/mine-v1" in bench("list")[1]
    code, shown = bench("show", "point_robot", "--name", "mine", "--results-dir", str(tmp_path / "results"))
    assert code == 0 and "origin.format" in shown
    (row,) = [line.split() for line in shown.splitlines() if line.startswith("3 ")]
    assert row[:4] == ["3", "train", "2", "40"]
    assert (tmp_path / "results/datasets/point_robot/mine-v1.png").stat().st_size > 10_000
    assert bench("validate", "point_robot", "--name", "mine") == (0, "omrl/point_robot/mine-v1: no defect found\n")
    assert bench("show", "point_robot", "--name", "other")[0] == 2
    code, line = bench("show", "point_robot", "--name", "mine", "--level", "expert")
    assert code == 2 and "--name tells an import" in line

    with h5py.File(tmp_path / "store/omrl/point_robot/mine-v1/data/main_data.hdf5", "a") as file:
        file["episode_1/actions"][3] = 0.25
    code, line = bench("validate", "point_robot", "--name", "mine")
    assert code == 2 and "episode 1: the bytes are not those that were written" in line
