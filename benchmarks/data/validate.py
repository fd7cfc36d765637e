"""Checks of a stored dataset, down to the last byte of its arrays."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from omrlbench.data.episodes import (
    HDF5_NAME,
    Arrays,
    DatasetError,
    checksums,
    content_sha256,
    episode_lengths,
    one_line,
    read_hdf5,
)
from omrlbench.data.identity import data_folder, dataset_id, fingerprint, make_command, recipe_tasks
from omrlbench.envs.registry import MetaEnvSpec

METADATA_NAME = "metadata.json"  # Minari's


def validate_dataset(spec: MetaEnvSpec, level: str, kind: str, data_dir: str | Path | None = None) -> None:
    """Check every array, episode and task of a stored dataset.

    Raises DatasetError, one line, for a dataset that was never made, and otherwise naming file, episode and reason:
    a missing file or array, a wrong length, shape or dtype, observations that are not one more than the steps, NaN or
    infinity, a task id out of range, an episode that does not end where it should, rewards that are not the
    environment's own, a missing task, or bytes other than those that were written.
    """
    dataset = dataset_id(spec, level, kind)
    folder, command = data_folder(dataset, data_dir), make_command(spec, level, kind, data_dir)
    if not folder.exists():
        raise DatasetError(f"{dataset}: not made yet; make it: {command}")
    with advising(command):
        read_checked(spec, dataset, folder)


@contextmanager
def advising(command: str) -> Iterator[None]:
    """Add to a DatasetError the command that replaces the dataset."""
    try:
        yield
    except DatasetError as error:
        raise DatasetError(f"{error}; make it again: {command}") from None


def read_metadata(dataset: str, folder: Path) -> dict[str, Any]:
    """What Minari's metadata file holds under "omrl", and its total of steps as `transitions`.

    Raises DatasetError if it does not describe `dataset`.
    """
    file = folder / METADATA_NAME
    try:
        metadata = json.loads(file.read_text())
        found, omrl = metadata["dataset_id"], metadata["omrl"] | {"transitions": metadata["total_steps"]}
        intact = fingerprint(omrl["recipe"]) == omrl["recipe_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{file}: cannot be read: {one_line(error)}") from None
    if found != dataset:
        raise DatasetError(f"{file}: describes {found}, expected {dataset}")
    if not intact:
        raise DatasetError(f"{file}: the recipe does not have its fingerprint")
    return omrl


def read_checked(spec: MetaEnvSpec, dataset: str, folder: Path) -> tuple[dict[str, Any], Arrays, np.ndarray]:
    """The metadata, the arrays and each episode's task id (episodes,), or DatasetError."""
    omrl = read_metadata(dataset, folder)
    file = folder / HDF5_NAME
    arrays, attributes = read_episodes(spec, file)
    task_ids = attributes["options/task_id"]
    wanted, counts = omrl["recipe"]["episodes"], np.bincount(task_ids, minlength=len(spec.tasks))
    for task in recipe_tasks(omrl["recipe"], spec):
        if (found := counts[task]) != wanted:
            raise DatasetError(f"{file}: task {task} has {found} episodes, expected {wanted}")
    if content_sha256(arrays, task_ids) != omrl["content_sha256"]:
        raise DatasetError(f"{file}: the content does not have its SHA-256")
    if not np.allclose(omrl["task_mean_returns"], attributes["return"].reshape(-1, wanted).mean(1), rtol=1e-9):
        raise DatasetError(f"{folder / METADATA_NAME}: the mean returns per task are not those of the episodes")
    if attributes["total_steps"].sum() != omrl["transitions"]:
        raise DatasetError(f"{folder / METADATA_NAME}: the total of steps is not that of the episodes")
    return omrl, arrays, task_ids


def read_episodes(spec: MetaEnvSpec, file: Path) -> tuple[Arrays, Arrays]:
    """The arrays and attributes of all episodes in an HDF5 file, or DatasetError that names the first bad episode."""
    arrays, attributes = read_hdf5(file, spec)
    for reason, bad in _defects(spec, arrays, attributes):
        if bad.any():
            raise DatasetError(f"{file}: episode {bad.argmax()}: {reason}")
    return arrays, attributes


def _defects(spec: MetaEnvSpec, arrays: Arrays, attributes: Arrays) -> list[tuple[str, np.ndarray]]:
    """What can be wrong with an episode, and a mask (episodes,) of those that are."""
    task_ids = attributes["options/task_id"]
    ends = (arrays["terminations"] | arrays["truncations"]).sum(1)
    own = arrays[f"infos/{spec.reward}_reward"]
    return [
        *((f"{name} hold NaN or infinity", _any(~np.isfinite(values))) for name, values in arrays.items()),
        (
            f"the task id is not within 0 to {len(spec.tasks) - 1}",
            (task_ids < 0) | (task_ids >= len(spec.tasks)),
        ),
        ("the episodes are not in the order of their tasks", np.diff(task_ids, prepend=task_ids[:1]) < 0),
        (
            "it does not end at its last step, and there alone",
            (ends != 1) | (episode_lengths(arrays) != attributes["total_steps"]),
        ),
        (f"rewards are not the {spec.reward} reward", _any(arrays["rewards"] != own)),
        ("the bytes are not those that were written", checksums(arrays, attributes) != attributes["crc32"]),
    ]


def _any(mask: np.ndarray) -> np.ndarray:
    return mask.reshape(len(mask), -1).any(1)
