"""Every kind of damage is rejected with the file, the episode and the reason."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from omrlbench.data.episodes import DatasetError, read_indexed
from omrlbench.data.generate import make_dataset
from omrlbench.data.identity import fingerprint
from omrlbench.data.store import list_datasets, load_dataset
from omrlbench.data.validate import read_checked, validate_dataset
from omrlbench.envs.registry import get_meta_env

SPEC = get_meta_env("sparse_point_robot")
DATASET = "omrl/sparse_point_robot/random-v1"
ARRAYS = (
    "observations",
    "actions",
    "rewards",
    "terminations",
    "truncations",
    "infos/dense_reward",
    "infos/sparse_reward",
)


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("intact")
    make_dataset(SPEC, "random", "per_task", folder, episodes=1)
    return folder


@pytest.fixture
def copy(intact, tmp_path) -> Path:
    shutil.copytree(intact, tmp_path, dirs_exist_ok=True)
    return tmp_path


def hdf5(folder: Path) -> Path:
    return folder / DATASET / "data" / "main_data.hdf5"


def rejection(folder: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        validate_dataset(SPEC, "random", "per_task", folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_intact_dataset_passes(intact):
    validate_dataset(SPEC, "random", "per_task", intact)


def test_what_was_never_made_is_said_to_be_so(tmp_path):
    folder = tmp_path / "my data"
    command = f"bench data make sparse_point_robot --level random --data-dir '{folder}'"
    assert rejection(folder) == f"{DATASET}: not made yet; make it: {command}"


def replace(name, change):
    def damage(episode):
        value = change(episode[name][()])
        del episode[name]
        episode[name] = value

    return damage


def put_at(name, step, value):
    def damage(episode):
        episode[name][step] = value

    return damage


def put(name, value):
    return put_at(name, 3, value)


DAMAGES = {
    "shape": (replace("actions", lambda a: a[:, :1]), "actions is float32 (20, 1), expected float32 (20, 2)"),
    "dtype": (replace("rewards", lambda r: r.astype(np.float64)), "rewards is float64 (20,), expected float32 (20,)"),
    "observations not T+1": (
        replace("observations", lambda o: o[:-1]),
        "observations is float32 (20, 2), expected float32 (21, 2) (one observation more than steps)",
    ),
    "NaN": (put("actions", np.nan), "actions hold NaN or infinity"),
    "infinity": (put("infos/dense_reward", np.inf), "infos/dense_reward hold NaN or infinity"),
    "early end": (put("truncations", True), "it does not end at its last step, and there alone"),
    "other reward": (put("rewards", -0.5), "rewards are not the sparse reward"),
    "other observation": (put("observations", 0.25), "the bytes are not those that were written"),
    "task id too large": (
        lambda e: e.attrs.modify("options/task_id", 110),
        "the task id is not within 0 to 109",
    ),
    "task id negative": (
        lambda e: e.attrs.modify("options/task_id", -1),
        "the task id is not within 0 to 109",
    ),
    "task id of another": (
        lambda e: e.attrs.modify("options/task_id", 6),
        "the bytes are not those that were written",
    ),
    "missing array": (lambda e: e.__delitem__("truncations"), "cannot be read"),
    "missing attribute": (lambda e: e.attrs.__delitem__("options/task_id"), "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_episode_is_named(copy, damage):
    change, reason = DAMAGES[damage]
    with h5py.File(hdf5(copy), "a") as stored:
        change(stored["episode_7"])
    message = rejection(copy)
    assert message.startswith(f"{hdf5(copy)}: episode 7: {reason}")
    assert message.endswith(f"make it again: bench data make sparse_point_robot --level random --data-dir {copy}")


def shorten(steps: int):
    """Every array as if the episode had ended after `steps` steps, without an end."""

    def damage(episode):
        episode.attrs.modify("total_steps", steps)
        for name in ARRAYS:
            replace(name, lambda values, rows=steps + (name == "observations"): values[:rows])(episode)

    return damage


def set_steps(steps: int):
    return lambda episode: episode.attrs.modify("total_steps", steps)


RAGGED_DAMAGES = {
    "fewer steps": (
        set_steps(6),
        "observations is float32 (8, 2), expected float32 (7, 2) (one observation more than steps)",
    ),
    "more steps": (
        set_steps(8),
        "observations is float32 (8, 2), expected float32 (9, 2) (one observation more than steps)",
    ),
    "no steps": (set_steps(0), "total_steps is 0, expected 1 to 20"),
    "more steps than the horizon": (set_steps(21), "total_steps is 21, expected 1 to 20"),
    "cut": (shorten(6), "it does not end at its last step, and there alone"),
    "second end": (put("terminations", True), "it does not end at its last step, and there alone"),
    "time limit for a termination": (
        lambda episode: (put_at("terminations", 6, False)(episode), put_at("truncations", 6, True)(episode)),
        "the bytes are not those that were written",
    ),
}


@pytest.mark.parametrize("damage", RAGGED_DAMAGES)
def test_a_damaged_length_or_end_is_named(ragged, tmp_path, damage):
    change, reason = RAGGED_DAMAGES[damage]
    shutil.copytree(ragged.folder, tmp_path, dirs_exist_ok=True)
    with h5py.File(hdf5(tmp_path), "a") as stored:
        change(stored["episode_10"])  # of 7 steps
    assert rejection(tmp_path).startswith(f"{hdf5(tmp_path)}: episode 10: {reason}")


def test_ragged_episodes_pass(ragged):
    validate_dataset(SPEC, "random", "per_task", ragged.folder)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_flipped_byte_is_rejected_at_validation_and_at_load(copy, name):
    with np.load(hdf5(copy).with_name("index.npz")) as index:
        offset = index[name][42]
    image = bytearray(hdf5(copy).read_bytes())
    image[offset + 5] ^= 1
    hdf5(copy).write_bytes(image)
    assert f"{hdf5(copy)}: episode 42: " in rejection(copy)
    with pytest.raises(DatasetError, match="episode 42: "):
        load_dataset("sparse_point_robot", "random", data_dir=copy)


def test_a_byte_flipped_anywhere_changes_no_data_or_is_rejected(copy):
    expected, tasks = read_indexed(hdf5(copy).parent, SPEC)
    image = hdf5(copy).read_bytes()
    for position in np.random.default_rng(0).integers(0, len(image), 25):
        hdf5(copy).write_bytes(image[:position] + bytes([image[position] ^ 64]) + image[position + 1 :])
        try:
            _, arrays, task_ids = read_checked(SPEC, DATASET, hdf5(copy).parent)
        except DatasetError:
            continue
        np.testing.assert_array_equal(task_ids, tasks)
        for name in ARRAYS:
            np.testing.assert_array_equal(arrays[name], expected[name])


def test_a_missing_task_is_named(copy):
    with h5py.File(hdf5(copy), "a") as stored:
        del stored["episode_109"]
    assert f"{hdf5(copy)}: task 109 has 0 episodes, expected 1" in rejection(copy)


def test_a_gap_between_episodes_is_named(copy):
    with h5py.File(hdf5(copy), "a") as stored:
        del stored["episode_5"]
    assert "episode 5: cannot be read" in rejection(copy)


def test_a_cut_file_is_rejected(copy):
    hdf5(copy).write_bytes(hdf5(copy).read_bytes()[:100_000])
    assert f"{hdf5(copy)}: " in rejection(copy)


def test_a_dataset_without_its_files_is_rejected(tmp_path):
    hdf5(tmp_path).parent.mkdir(parents=True)
    assert "metadata.json: cannot be read: No such file or directory" in rejection(tmp_path)


def set_id(metadata):
    metadata["dataset_id"] = "omrl/sparse_point_robot/expert-v1"


def set_horizon(metadata):
    metadata["omrl"]["recipe"]["horizon"] = 21


def set_return(metadata):
    metadata["omrl"]["task_mean_returns"][3] += 0.5


def set_steps_in_all(metadata):
    metadata["total_steps"] -= 1


def set_content(metadata):
    metadata["omrl"]["content_sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_id, "describes omrl/sparse_point_robot/expert-v1, expected omrl/sparse_point_robot/random-v1"),
        (set_horizon, "the recipe does not have its fingerprint"),
        (set_return, "the mean returns per task are not those of the episodes"),
        (set_steps_in_all, "the total of steps is not that of the episodes"),
        (set_content, "the content does not have its SHA-256"),
        (lambda metadata: metadata.pop("omrl"), "cannot be read: 'omrl'"),
    ],
)
def test_changed_metadata_is_rejected(copy, change, reason):
    edit_metadata(copy, change)
    assert reason in rejection(copy)


def edit_metadata(folder: Path, change) -> None:
    file = hdf5(folder).with_name("metadata.json")
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))


def test_the_list_shows_a_damaged_dataset_with_the_reason(copy):
    edit_metadata(copy, lambda metadata: metadata.pop("omrl"))
    (row,) = (row for row in list_datasets(copy) if row["on_disk"])
    assert row["id"] == DATASET
    assert "cannot be read" in row["state"]


def test_a_missing_index_costs_time_only(copy):
    expected = load_dataset("sparse_point_robot", "random", data_dir=copy)
    hdf5(copy).with_name("index.npz").unlink()
    assert load_dataset("sparse_point_robot", "random", data_dir=copy).actions.equal(expected.actions)


def test_an_index_without_lengths_is_of_full_episodes(intact, copy):
    index = hdf5(copy).with_name("index.npz")
    with np.load(index) as written:
        np.savez(index, **{name: values for name, values in written.items() if name != "total_steps"})
    (arrays, task_ids), (expected, expected_ids) = (read_indexed(hdf5(f).parent, SPEC) for f in (copy, intact))
    np.testing.assert_array_equal(task_ids, expected_ids)
    for name in ARRAYS:
        np.testing.assert_array_equal(arrays[name], expected[name])


def test_a_wrong_length_in_the_index_costs_time_only(ragged, tmp_path):
    shutil.copytree(ragged.folder, tmp_path, dirs_exist_ok=True)
    index = hdf5(tmp_path).with_name("index.npz")
    with np.load(index) as written:
        np.savez(index, **(dict(written) | {"total_steps": written["total_steps"] + 1}))
    expected = load_dataset("sparse_point_robot", "random", data_dir=ragged.folder)
    assert load_dataset("sparse_point_robot", "random", data_dir=tmp_path).actions.equal(expected.actions)


def test_data_of_another_recipe_are_refused_at_load_and_replaced_by_make(copy):
    def older(metadata):
        omrl = metadata["omrl"]
        omrl["recipe"]["checkpoints_sha256"] = "0" * 64
        omrl["recipe_sha256"] = fingerprint(omrl["recipe"])

    edit_metadata(copy, older)
    validate_dataset(SPEC, "random", "per_task", copy)
    with pytest.raises(DatasetError, match="made with another checkpoints_sha256 than this version has; make it"):
        load_dataset("sparse_point_robot", "random", data_dir=copy)
    make_dataset(SPEC, "random", "per_task", copy, episodes=1)
    load_dataset("sparse_point_robot", "random", data_dir=copy)


def test_make_replaces_a_damaged_dataset(copy):
    hdf5(copy).write_bytes(b"")
    make_dataset(SPEC, "random", "per_task", copy, episodes=1)
    validate_dataset(SPEC, "random", "per_task", copy)
