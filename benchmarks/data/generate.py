"""Making datasets: the shipped behaviour checkpoints rolled out in every task, stored once they are checked.

`python -m omrlbench.data.generate [NAME ...]` makes the datasets of every (meta-environment, level) afresh and writes
`pins.json`. That is for maintainers, after a change of checkpoints, environments or generator.
"""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import minari
import numpy as np
from filelock import AcquireReturnProxy, FileLock, Timeout
from minari.dataset.minari_storage import MinariStorage

from omrlbench.data.behavior import rollout
from omrlbench.data.checkpoints import load_checkpoints
from omrlbench.data.episodes import (
    ATTRIBUTES,
    HDF5_NAME,
    Arrays,
    DatasetError,
    DatasetWriteError,
    checksums,
    content_sha256,
    episode_lengths,
    layout,
    one_line,
    read_hdf5,
    write_episodes,
)
from omrlbench.data.identity import (
    DATASET_LEVELS,
    DATASET_REVISION,
    ROLLOUT_SEED,
    data_folder,
    dataset_id,
    datasets_root,
    fingerprint,
    pins,
    recipe,
    recipe_tasks,
)
from omrlbench.data.validate import read_checked
from omrlbench.envs.references import reference_returns
from omrlbench.envs.registry import META_ENVS, MetaEnvSpec, get_meta_env

TOLERANCE = 0.01  # of the gap between random and expert, for the mean return per task on other machines
PER_EPISODE = ("return", "policy_step")
STANDARD_ERRORS = 5  # of a task's mean return: the same where other rounding soon leads to other episodes

Progress = Callable[[str, int, int], None]  # told (what is being done, done, total)


def make_dataset(
    spec: MetaEnvSpec,
    level: str,
    kind: str,
    data_dir: str | Path | None = None,
    *,
    episodes: int | None = None,
    on_progress: Progress | None = None,
    on_message: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Make one dataset unless it is there, intact and of the same recipe; returns its "omrl" metadata.

    `episodes` per task are shared by the level's checkpoints; another number than the default makes a dataset that
    is not the leaderboard's. A level that ends in "-shifted" is of test and validation tasks alone, in each of which
    the behaviour policy of another task acts. The files appear under their final name only when complete and checked,
    and a process that finds another one making the same dataset says so through `on_message` and waits for it. Raises,
    one line, DatasetWriteError where the files cannot be written and DatasetError where there are no behaviour
    checkpoints.
    """
    dataset = dataset_id(spec, level, kind)
    wanted = recipe(spec, level, kind, episodes)
    if wanted["episodes"] < len(wanted["checkpoint_steps"]):
        needed = len(wanted["checkpoint_steps"])
        raise DatasetError(f"{dataset} needs {needed} episodes per task, not {wanted['episodes']}")
    final = data_folder(dataset, data_dir).parent
    temporary, replaced = (final.with_name(f".{final.name}.{suffix}") for suffix in ("new", "old"))
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _locked(final.with_name(f".{final.name}.lock"), dataset, on_message or (lambda message: None)):
            present = _present(spec, dataset, final / "data", wanted)
            if present:
                return present
            try:
                _remove(temporary, replaced)
                omrl = _make(spec, kind, dataset, wanted, temporary / "data", on_progress or (lambda *_: None))
                if final.exists():
                    final.rename(replaced)
                temporary.rename(final)
                return omrl
            finally:
                _remove(temporary, replaced)
    except OSError as error:
        root = datasets_root(data_dir)
        raise DatasetWriteError(f"cannot write {dataset} below {root}: {one_line(error)}") from error


def _locked(path: Path, dataset: str, on_message: Callable[[str], None]) -> AcquireReturnProxy:
    """The lock at `path` as a context manager, taken at once or, after a message, as soon as it is free."""
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        on_message(f"waiting for another process that makes {dataset}")
        return lock.acquire()


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _present(spec: MetaEnvSpec, dataset: str, folder: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The metadata of an intact dataset of this recipe in `folder`, None if there is no such thing."""
    try:
        omrl, *_ = read_checked(spec, dataset, folder)
    except DatasetError:
        return None
    return omrl if omrl["recipe"] == wanted else None


def _make(
    spec: MetaEnvSpec, kind: str, dataset: str, wanted: dict[str, Any], folder: Path, on_progress: Progress
) -> dict[str, Any]:
    """Roll out, write to `folder` and check what was written; returns its metadata."""
    arrays, attributes = _collect(spec, kind, wanted, on_progress)
    task_ids = attributes["options/task_id"]
    returns = attributes["return"].reshape(-1, wanted["episodes"])
    omrl = {
        "env": spec.name,
        "level": wanted["level"],
        "behavior": kind,
        "task_set": json.loads(spec.tasks.to_json()),
        "recipe": wanted,
        "recipe_sha256": fingerprint(wanted),
        "content_sha256": content_sha256(arrays, task_ids),
        "task_mean_returns": returns.mean(1).tolist(),
        "revisions": {
            "dataset": DATASET_REVISION,
            "environment": spec.revision,
            "generator": wanted["generator_revision"],
        },
    }
    folder.mkdir(parents=True)
    storage = _new_storage(spec, folder)
    write_episodes(folder, arrays, attributes, lambda done, total: on_progress("write", done, total))
    storage.update_metadata(_minari_metadata(spec, dataset, omrl, attributes))
    storage.update_metadata({"dataset_size": float(storage.get_size())})  # MB
    on_progress("check", 0, 1)
    written, *_ = read_checked(spec, dataset, folder)
    on_progress("check", 1, 1)
    return written


def _collect(spec: MetaEnvSpec, kind: str, wanted: dict[str, Any], on_progress: Progress) -> tuple[Arrays, Arrays]:
    """The arrays and attributes of all episodes: task after task, in each the checkpoints one after the other."""
    checkpoints, tasks = load_checkpoints(spec, kind), recipe_tasks(wanted, spec)
    actors = [actor for _, actor in wanted.get("actors", zip(tasks, tasks, strict=True))]
    steps = wanted["checkpoint_steps"]
    by_actor = np.stack([np.broadcast_to(step, len(spec.tasks))[actors] for step in steps], 1)
    counts = [len(part) for part in np.array_split(np.arange(wanted["episodes"]), len(steps))]
    parts = []
    for index, (step, count) in enumerate(zip(steps, counts, strict=True)):

        def on_step(done: int, horizon: int, earlier: int = index) -> None:
            on_progress("roll out", earlier * horizon + done, len(steps) * horizon)

        seed = np.random.SeedSequence((ROLLOUT_SEED, DATASET_LEVELS.index(wanted["level"]), index))
        policy = checkpoints.policy(step).of(actors)
        parts.append(rollout(spec, policy, count, np.random.default_rng(seed), on_step, tasks))

    rolled = {name: np.concatenate([part.pop(name) for part in parts], 1) for name in list(parts[0])}
    sources = {
        "rewards": f"{spec.reward}_reward",
        "terminations": "terminated",
        "truncations": "truncated",
        **{f"infos/{reward}_reward": f"{reward}_reward" for reward in spec.rewards},
    }
    arrays = {
        name: np.ascontiguousarray(rolled[sources.get(name, name)].reshape(-1, *shape), dtype)
        for name, (shape, dtype) in layout(spec).items()
    }
    task_ids = np.repeat(tasks, wanted["episodes"])
    attributes = {
        "id": np.arange(len(task_ids)),
        "total_steps": episode_lengths(arrays),
        "options/task_id": task_ids,
        "policy_step": np.repeat(by_actor, counts, axis=1).ravel(),
        "return": arrays["rewards"].sum(1, dtype=np.float64),
    }
    attributes = {name: values.astype(ATTRIBUTES[name]) for name, values in attributes.items()}
    return arrays, attributes | {"crc32": checksums(arrays, attributes)}


def _new_storage(spec: MetaEnvSpec, folder: Path) -> MinariStorage:
    env_spec = gymnasium.spec(spec.gym_id)
    env = spec.make(0)
    return MinariStorage.new(folder, env.observation_space, env.action_space, env_spec, "hdf5", jpeg_encoding=False)


def _minari_metadata(spec: MetaEnvSpec, dataset: str, omrl: dict[str, Any], attributes: Arrays) -> dict[str, Any]:
    references = reference_returns(spec.name, "test")
    return {
        "dataset_id": dataset,
        "minari_version": minari.__version__,
        "total_episodes": len(attributes["id"]),
        "total_steps": int(attributes["total_steps"].sum()),
        "author": {"OMRL-Bench"},
        "algorithm_name": f"SAC, {omrl['behavior']}, dense reward",
        "description": f"{spec.name}, {omrl['level']} behaviour in all tasks: {spec.description}",
        "eval_env_spec": gymnasium.spec(spec.gym_id).to_json(),
        "requirements": ["omrl-bench"],
        "ref_min_score": references.random,
        "ref_max_score": references.expert,
        "omrl": omrl,
    }


def write_pins(names: Sequence[str]) -> None:
    """Make the datasets of the meta-environments `names`, by default all, of the default behaviour kind in a scratch
    folder, and write their entries of `pins.json`."""
    datasets = [(get_meta_env(name), level) for name in names or META_ENVS for level in DATASET_LEVELS]
    for spec, level in datasets:
        recipe(spec, level, spec.behavior_kind)  # missing checkpoints show before minutes of work
    with TemporaryDirectory() as scratch:
        made = {dataset_id(spec, level, spec.behavior_kind): _pin(spec, level, scratch) for spec, level in datasets}
    table = pins() | made
    Path(str(files("omrlbench.data").joinpath("pins.json"))).write_text(json.dumps(table, indent=1) + "\n")


def _pin(spec: MetaEnvSpec, level: str, data_dir: str) -> dict[str, Any]:
    omrl = make_dataset(spec, level, spec.behavior_kind, data_dir)
    references = [reference_returns(spec.name, split) for split in ("train", "test")]
    gap = np.mean([each.expert - each.random for each in references])
    folder = data_folder(dataset_id(spec, level, spec.behavior_kind), data_dir)
    attributes = read_hdf5(folder / HDF5_NAME, spec)[1]
    by_task = (attributes[name].reshape(-1, omrl["recipe"]["episodes"]) for name in PER_EPISODE)
    standard_error = largest_standard_error(*by_task)
    return {
        "recipe": omrl["recipe_sha256"],
        "content": omrl["content_sha256"],
        "task_mean_returns": np.round(omrl["task_mean_returns"], 4).tolist(),
        "tolerance": round(float(max(TOLERANCE * gap, STANDARD_ERRORS * standard_error if spec.locomotion else 0)), 4),
    }


def largest_standard_error(returns: np.ndarray, policy_steps: np.ndarray) -> float:
    """Of the mean returns per task, from the spread among episodes of the same checkpoint; both (n_tasks, episodes)."""
    spread = np.zeros(returns.shape)
    for values, steps, differences in zip(returns, policy_steps, spread, strict=True):
        for step in np.unique(steps):
            same = steps == step
            differences[same] = values[same] - values[same].mean()
    return float(np.sqrt(np.square(spread).mean(1)).max() / np.sqrt(returns.shape[1]))


if __name__ == "__main__":
    write_pins(sys.argv[1:])
