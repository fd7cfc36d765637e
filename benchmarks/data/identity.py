"""What a dataset is called, where it lies, and what it must be made of: id, folder, recipe and pins."""

import hashlib
import json
import os
import shlex
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from omrlbench.data.behavior import KINDS
from omrlbench.data.checkpoints import load_checkpoints
from omrlbench.data.episodes import DatasetError
from omrlbench.envs.registry import LEVELS, MetaEnvSpec
from omrlbench.envs.tasks import PUBLISHED_SEED, TaskSet
from omrlbench.errors import unknown

DATASET_REVISION = 1  # the N of "-vN": bumped when the form of a dataset changes
GENERATOR_REVISION = 1  # bumped when the same recipe would give other data
EPISODES = 50  # per task
SHIFTED_STEPS = 2_400  # per task of shifted data, or EPISODES if these are fewer
SHIFTED = "-shifted"  # after the level: contexts that the policies of other tasks collect
EVALUATED = ("test", "validation")  # splits
DATASET_LEVELS = (*LEVELS, *(level + SHIFTED for level in LEVELS))
ROLLOUT_SEED = PUBLISHED_SEED

PINNED = "pinned"
OTHER_MACHINE = "pinned recipe, other machine"
UNPINNED = "not a leaderboard dataset"


def dataset_id(spec: MetaEnvSpec, level: str, kind: str) -> str:
    """The Minari id. Raises BenchError for an unknown level or kind of behaviour policy."""
    if level not in DATASET_LEVELS:
        raise unknown("level", level, DATASET_LEVELS)
    if kind not in KINDS:
        raise unknown("behaviour kind", kind, KINDS)
    name = level if kind == spec.behavior_kind else f"{level}-{kind}"
    return f"omrl/{spec.name}/{name}-v{DATASET_REVISION}"


def datasets_root(data_dir: str | Path | None = None) -> Path:
    """`data_dir`, else the folder that MINARI_DATASETS_PATH names, else Minari's own in the home folder; absolute."""
    # Minari does not find its files by a relative path
    return Path(data_dir or os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets").absolute()


def data_folder(dataset: str, data_dir: str | Path | None = None) -> Path:
    """The folder that Minari keeps the files of the dataset with this id in, whether it exists or not."""
    return datasets_root(data_dir) / dataset / "data"


def make_command(spec: MetaEnvSpec, level: str, kind: str, data_dir: str | Path | None = None) -> str:
    behavior = "" if kind == spec.behavior_kind else f" --behavior {kind}"
    place = "" if data_dir is None else f" --data-dir {shlex.quote(str(data_dir))}"
    return f"bench data make {spec.name} --level {level}{behavior}{place}"


def recipe(spec: MetaEnvSpec, level: str, kind: str, episodes: int | None = None) -> dict[str, Any]:
    """Everything that decides the content of a dataset, JSON-able and equal on every machine.

    `episodes` per task are by default those of the leaderboard's datasets. Raises DatasetError where there are no
    behaviour checkpoints, and for shifted data where a split has but one task.
    """
    quality, shifted = level.removesuffix(SHIFTED), level.endswith(SHIFTED)
    try:
        checkpoints = load_checkpoints(spec, kind)
    except FileNotFoundError as error:
        raise DatasetError(str(error)) from None
    steps = checkpoints.levels[spec.name][quality]
    if episodes is None:
        episodes = max(len(steps), min(EPISODES, SHIFTED_STEPS // spec.horizon)) if shifted else EPISODES
    return {
        "env": spec.name,
        "env_revision": spec.revision,
        "level": level,
        "horizon": spec.horizon,
        "task_set_sha256": spec.tasks.sha256,
        "checkpoints_sha256": checkpoints.sha256,
        "checkpoint_steps": list(steps),
        "episodes": episodes,
        "rollout_seed": ROLLOUT_SEED,
        "generator_revision": GENERATOR_REVISION,
    } | ({"actors": [list(pair) for pair in sorted(shifted_actors(spec.tasks).items())]} if shifted else {})


def shifted_actors(tasks: TaskSet) -> dict[int, int]:
    """Each test and validation task with the task whose behaviour policy acts in it, another one of the same split.

    They are drawn once and for all. Raises DatasetError where a split has but one task.
    """
    if not can_shift(tasks):
        raise DatasetError(f"{tasks.name}: a split of one task has no other task's policy, so no shifted data")
    actors: dict[int, int] = {}
    for ids in (tasks.splits[split] for split in EVALUATED):
        order = np.random.default_rng(ROLLOUT_SEED).permutation(ids).tolist()
        actors |= dict(zip(order, order[1:] + order[:1], strict=True))
    return actors


def can_shift(tasks: TaskSet) -> bool:
    return all(len(tasks.splits[split]) != 1 for split in EVALUATED)


def recipe_tasks(recipe: dict[str, Any], spec: MetaEnvSpec) -> list[int]:
    """The tasks that the dataset of a recipe has data of."""
    return [task for task, _ in recipe["actors"]] if "actors" in recipe else list(range(len(spec.tasks)))


def fingerprint(values: dict[str, Any]) -> str:
    """SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def recipe_fingerprint(spec: MetaEnvSpec, level: str, kind: str) -> str:
    """The fingerprint of the dataset that `load_dataset` makes, without making it."""
    return fingerprint(recipe(spec, level, kind))


@cache
def pins() -> dict[str, dict[str, Any]]:
    """By dataset id: `recipe`, `content`, `task_mean_returns` and the `tolerance` of these, as measured once."""
    return json.loads(files("omrlbench.data").joinpath("pins.json").read_text())


def pin_state(dataset: str, omrl: dict[str, Any]) -> str:
    """How a dataset with the metadata `omrl` compares with the pinned one: PINNED, OTHER_MACHINE or UNPINNED."""
    pin = pins().get(dataset)
    if pin is None or pin["recipe"] != omrl["recipe_sha256"]:
        return UNPINNED
    if pin["content"] == omrl["content_sha256"]:
        return PINNED
    difference = np.abs(np.subtract(pin["task_mean_returns"], omrl["task_mean_returns"]))
    return OTHER_MACHINE if difference.max() <= pin["tolerance"] else UNPINNED
