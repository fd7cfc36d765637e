"""The datasets on this machine: load one (making it on first use), list and describe them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from omrlbench.data.behavior import KINDS
from omrlbench.data.dataset import MultiTaskDataset, partial_spec
from omrlbench.data.episodes import Arrays, DatasetError, content_sha256, episode_lengths, read_indexed
from omrlbench.data.generate import Progress, make_dataset
from omrlbench.data.identity import (
    DATASET_LEVELS,
    data_folder,
    dataset_id,
    make_command,
    pin_state,
    recipe,
    recipe_fingerprint,
    recipe_tasks,
)
from omrlbench.data.validate import advising, read_checked, read_metadata
from omrlbench.envs.references import normalized_score
from omrlbench.envs.registry import LEVELS, MetaEnvSpec, get_meta_env, usable_meta_envs

__all__ = [
    "DatasetError",
    "dataset_id",
    "describe",
    "level_returns",
    "list_datasets",
    "load_dataset",
    "recipe_fingerprint",
]


def load_dataset(
    env: str,
    level: str | None = None,
    *,
    behavior: str | None = None,
    data_dir: str | Path | None = None,
    on_progress: Progress | None = None,
    on_message: Callable[[str], None] | None = None,
) -> MultiTaskDataset:
    """The dataset of a meta-environment and level as contiguous tensors, made and checked on first use.

    `level` and `behavior`, the kind of behaviour policy, are by default the environment's. A level that ends in
    "-shifted" holds contexts of test and validation tasks, in each of which the policy of another task acts. Datasets
    lie in `data_dir`, by default the folder that MINARI_DATASETS_PATH names, else Minari's own. The content hash is
    verified at every load; `metadata["state"]` tells how the dataset compares with the pinned one. `on_message` is told
    in one line when another process makes the dataset and this one waits for it.

    Raises DatasetError, one line, where the data are damaged, made by another recipe than this version's, or cannot be
    written, and ValueError or BenchError for an unknown name.
    """
    spec = get_meta_env(env)
    level = spec.default_level if level is None else level
    kind = spec.behavior_kind if behavior is None else behavior
    dataset = dataset_id(spec, level, kind)
    folder = data_folder(dataset, data_dir)
    if not folder.exists():
        make_dataset(spec, level, kind, data_dir, on_progress=on_progress, on_message=on_message)
    with advising(make_command(spec, level, kind, data_dir)):
        omrl, arrays, task_ids = _read(spec, dataset, folder)
        _check_recipe(spec, level, kind, folder, omrl["recipe"])
    metadata = omrl | {"id": dataset, "state": pin_state(dataset, omrl)}
    seen = partial_spec(spec, recipe_tasks(omrl["recipe"], spec)) if "actors" in omrl["recipe"] else spec
    return as_tensors(seen, level, arrays, task_ids, metadata)


def _read(spec: MetaEnvSpec, dataset: str, folder: Path) -> tuple[dict[str, Any], Arrays, np.ndarray]:
    """By the index where that gives the right bytes; otherwise the long way, which says what is damaged."""
    omrl = read_metadata(dataset, folder)
    try:
        arrays, task_ids = read_indexed(folder, spec)
        if content_sha256(arrays, task_ids) == omrl["content_sha256"]:
            return omrl, arrays, task_ids
    except (OSError, KeyError, ValueError, BadZipFile):
        pass
    return read_checked(spec, dataset, folder)


def _check_recipe(spec: MetaEnvSpec, level: str, kind: str, folder: Path, stored: dict[str, Any]) -> None:
    current = recipe(spec, level, kind, stored["episodes"])
    differing = [name for name in current if stored.get(name) != current[name]]
    if differing:
        raise DatasetError(f"{folder}: was made with another {' and '.join(differing)} than this version has")


def as_tensors(
    spec: MetaEnvSpec, level: str, arrays: Arrays, task_ids: np.ndarray, metadata: dict[str, Any]
) -> MultiTaskDataset:
    """The dataset. Empties `arrays` on the way, so that each is freed as soon as it is copied."""
    lengths = episode_lengths(arrays)
    size = np.bincount(task_ids, lengths, len(spec.tasks)).astype(np.int64)

    def flat(values: np.ndarray) -> torch.Tensor:
        """(episodes, horizon or more, ...) -> (transitions, ...), contiguous."""
        return torch.from_numpy(np.concatenate([row[:steps] for row, steps in zip(values, lengths, strict=True)]))

    del arrays["rewards"]  # the environment's own, which is one of those below
    actions, terminated, truncated = (flat(arrays.pop(name)) for name in ("actions", "terminations", "truncations"))
    rewards = {kind: flat(arrays.pop(f"infos/{kind}_reward")) for kind in spec.rewards}
    observations = arrays.pop("observations")
    return MultiTaskDataset(
        spec=spec,
        level=level,
        observations=flat(observations),
        actions=actions,
        rewards=rewards,
        next_observations=flat(observations[:, 1:]),
        terminated=terminated,
        truncated=truncated,
        task_start=np.cumsum(size) - size,
        task_size=size,
        metadata=metadata,
    )


def level_returns(
    dataset: MultiTaskDataset, data_dir: str | Path | None, on_message: Callable[[str], None]
) -> dict[str, np.ndarray]:
    """The return of every episode (episodes,) of `dataset` and of its other levels that are on disk, by level.

    One that cannot be loaded is left out, and `on_message` told why in one line.
    """
    spec, kind = dataset.spec, dataset.metadata["behavior"]
    returns = {}
    for level in dict.fromkeys((*LEVELS, dataset.level)):
        if level == dataset.level:
            *_, returns[level] = dataset.episodes()
        elif data_folder(dataset_id(spec, level, kind), data_dir).exists():
            try:
                *_, returns[level] = load_dataset(spec.name, level, behavior=kind, data_dir=data_dir).episodes()
            except DatasetError as error:
                on_message(f"left out: {error}")
    return returns


def list_datasets(data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """`describe` of every level of the default behaviour kinds, on disk or not, and of all other datasets on disk.

    A damaged one is listed with the reason as its state.
    """
    return [
        _describe_or_reason(spec, level, kind, data_dir)
        for spec in usable_meta_envs()
        for level in DATASET_LEVELS
        for kind in KINDS
        if (level in LEVELS and kind == spec.behavior_kind)
        or data_folder(dataset_id(spec, level, kind), data_dir).exists()
    ]


def _describe_or_reason(spec: MetaEnvSpec, level: str, kind: str, data_dir: str | Path | None) -> dict[str, Any]:
    try:
        return describe(spec.name, level, behavior=kind, data_dir=data_dir)
    except DatasetError as error:
        return _outline(spec, level, kind, data_dir) | {"state": str(error)}


def _outline(spec: MetaEnvSpec, level: str, kind: str, data_dir: str | Path | None) -> dict[str, Any]:
    dataset = dataset_id(spec, level, kind)
    folder = data_folder(dataset, data_dir)
    return {
        "id": dataset,
        "env": spec.name,
        "level": level,
        "behavior": kind,
        "path": str(folder.parent),
        "on_disk": folder.exists(),
        "state": "not made",
    }


def describe(
    env: str, level: str | None = None, *, behavior: str | None = None, data_dir: str | Path | None = None
) -> dict[str, Any]:
    """What is known of one dataset, by default of the environment's level, without reading its arrays.

    Always `id`, `env`, `level`, `behavior`, `path`, `on_disk` and `state`; of one on disk also `episodes`,
    `transitions`, `size` (bytes), `splits` (per split `tasks`, `mean_return`, `normalized_score`), `recipe`,
    `recipe_sha256` and `content_sha256`. Raises DatasetError where its metadata is damaged.
    """
    spec = get_meta_env(env)
    level = spec.default_level if level is None else level
    kind = spec.behavior_kind if behavior is None else behavior
    outline = _outline(spec, level, kind, data_dir)
    if not outline["on_disk"]:
        return outline
    folder = data_folder(outline["id"], data_dir)
    omrl = read_metadata(outline["id"], folder)
    tasks = recipe_tasks(omrl["recipe"], spec)
    return outline | {
        "state": pin_state(outline["id"], omrl),
        "episodes": omrl["recipe"]["episodes"] * len(tasks),
        "transitions": omrl["transitions"],
        "size": sum(file.stat().st_size for file in folder.iterdir()),
        "splits": _split_returns(spec, dict(zip(tasks, omrl["task_mean_returns"], strict=True))),
        "recipe": omrl["recipe"],
        "recipe_sha256": omrl["recipe_sha256"],
        "content_sha256": omrl["content_sha256"],
    }


def _split_returns(spec: MetaEnvSpec, task_means: dict[int, float]) -> dict[str, dict[str, float]]:
    table = {}
    for split, tasks in spec.tasks.splits.items():
        if tasks and task_means.keys() >= set(tasks):
            mean = float(np.mean([task_means[task] for task in tasks]))
            score = normalized_score(spec.name, split, mean)
            table[split] = {"tasks": len(tasks), "mean_return": mean, "normalized_score": score}
    return table
