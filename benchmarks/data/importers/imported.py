"""Storing imported data beside the datasets made here, and loading them."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from zipfile import BadZipFile

import gymnasium
import minari
import numpy as np
from filelock import FileLock
from minari.dataset.minari_storage import MinariStorage

from omrlbench.data.behavior import KINDS
from omrlbench.data.dataset import MultiTaskDataset, partial_spec
from omrlbench.data.episodes import (
    HDF5_NAME,
    Arrays,
    DatasetError,
    DatasetWriteError,
    content_sha256,
    naming,
    one_line,
    read_hdf5,
    read_indexed,
    write_episodes,
)
from omrlbench.data.generate import Progress
from omrlbench.data.identity import (
    DATASET_LEVELS,
    DATASET_REVISION,
    UNPINNED,
    data_folder,
    datasets_root,
    fingerprint,
)
from omrlbench.data.importers.collect import Collected, collect, to_arrays
from omrlbench.data.importers.identify import task_id
from omrlbench.data.importers.source import Source, SourceTask
from omrlbench.data.store import as_tensors
from omrlbench.data.validate import read_episodes, read_metadata
from omrlbench.envs.registry import MetaEnvSpec, get_meta_env, usable_meta_envs
from omrlbench.errors import BenchError, unknown

IMPORTER_REVISION = 1  # bumped when the same sources would give other data
FORMATS = ("focal", "borel", "macaw", "mbml", "metadt", "d4rl")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
RESERVED = {*DATASET_LEVELS, *(f"{level}-{kind}" for level in DATASET_LEVELS for kind in KINDS)}


def import_dataset(
    format: str,
    path: str | Path,
    env: str,
    name: str,
    *,
    allow_pickle: bool = False,
    by_number: bool = False,
    steps: Sequence[int] = (),
    episodes: int | None = None,
    action_scale: float | None = None,
    overwrite: bool = False,
    data_dir: str | Path | None = None,
    on_progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Bring the data at `path` into the store as the dataset `name` of a meta-environment; returns its metadata.

    `format` is one of FORMATS. `allow_pickle` permits to read pickles, by an unpickler that knows numbers only.
    `by_number` takes the source's task k as task k whatever it is. `steps` are the training steps of the behaviour
    policies to take, in the format that knows them. `episodes` takes so many of each task, evenly spaced. The source's
    actions are divided by `action_scale`. A dataset of that name made from the same sources is left as it is, one of
    others is replaced only with `overwrite`.

    Raises DatasetError, one line, where the sources are not as the format says, do not fit the meta-environment, or are
    of other tasks, DatasetWriteError where nothing can be written, BenchError for a name that is not allowed.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    source = Source(Path(path), get_meta_env(env), allow_pickle, by_number, tuple(steps), action_scale)
    dataset = import_id(source.spec, name)
    found = _list_tasks(source, format)
    task_ids = [task_id(source, task) for task in found]
    wanted = _recipe(source, format, episodes, _sources_sha256(source, found, on_progress))
    final = data_folder(dataset, data_dir).parent
    present = _present(source.spec, dataset, final / "data")
    if present and present["recipe"] == wanted:
        return present
    if final.exists() and not overwrite:
        raise DatasetError(
            f"{final}: exists and is not an intact import of these sources; choose another --name or add --overwrite"
        )
    collected = collect(source, found, task_ids, episodes, on_progress)
    with _replacing(final, dataset, data_dir) as folder:
        _write(source.spec, dataset, collected, _description(source, name, wanted, collected), folder, on_progress)
    return _read(source.spec, dataset, final / "data")[0]


def import_id(spec: MetaEnvSpec, name: str) -> str:
    """The Minari id. Raises BenchError where the name is that of a level or has other characters than allowed."""
    if not NAME.fullmatch(name):
        raise BenchError(f"the name {name!r} may have letters, digits, - and _ only")
    if name in RESERVED:
        raise BenchError(f"the name {name!r} is kept for the data made here; choose another, for example focal-{name}")
    return f"omrl/{spec.name}/{name}-v{DATASET_REVISION}"


def _list_tasks(source: Source, format: str) -> list[SourceTask]:
    if source.steps and format != "focal":
        raise BenchError(f"--step is for focal, {format} does not tell training steps")
    if not source.path.exists():
        raise DatasetError(f"{source.path}: does not exist")
    with naming(source.path):
        return resolve_name(f"omrlbench.data.importers.{format}:tasks")(source)


def _sources_sha256(source: Source, found: Sequence[SourceTask], on_progress: Progress) -> str:
    """Over the names and contents of all files that are read."""
    files = sorted({file for task in found for file in task.files})
    digest = hashlib.sha256()
    for done, file in enumerate(files):
        on_progress("hash the sources", done, len(files))
        with naming(file), file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        name = file.relative_to(source.path).as_posix() if source.path.is_dir() else file.name
        digest.update(json.dumps([name, content]).encode())
    return digest.hexdigest()


def _recipe(source: Source, format: str, episodes: int | None, sources_sha256: str) -> dict[str, Any]:
    """Everything that decides the content, JSON-able."""
    return {
        "format": format,
        "sources_sha256": sources_sha256,
        "by_number": source.by_number,
        "steps": sorted(source.steps),
        "episodes": episodes,
        "action_scale": source.action_scale,
        "importer_revision": IMPORTER_REVISION,
        **_world(source.spec),
    }


def _world(spec: MetaEnvSpec) -> dict[str, Any]:
    return {
        "env": spec.name,
        "env_revision": spec.revision,
        "horizon": spec.horizon,
        "task_set_sha256": spec.tasks.sha256,
    }


def _write(
    spec: MetaEnvSpec,
    dataset: str,
    collected: Collected,
    description: dict[str, Any],
    folder: Path,
    on_progress: Progress,
) -> None:
    """Write to `folder` and check what was written."""
    arrays, attributes = to_arrays(spec, collected)
    task_ids = attributes["options/task_id"]
    omrl = description | {
        "recipe_sha256": fingerprint(description["recipe"]),
        "content_sha256": content_sha256(arrays, task_ids),
        "task_mean_returns": _task_means(spec, task_ids, attributes["return"]),
        "episodes": len(task_ids),
    }
    folder.mkdir(parents=True)
    env, env_spec = spec.make(0), gymnasium.spec(spec.gym_id)
    storage = MinariStorage.new(folder, env.observation_space, env.action_space, env_spec, "hdf5", jpeg_encoding=False)
    write_episodes(folder, arrays, attributes, lambda done, total: on_progress("write", done, total))
    storage.update_metadata(
        {
            "dataset_id": dataset,
            "minari_version": minari.__version__,
            "total_episodes": len(task_ids),
            "total_steps": int(attributes["total_steps"].sum()),
            "description": f"{spec.name}, imported from files of the form {omrl['recipe']['format']}",
            "requirements": ["omrl-bench"],
            "omrl": omrl,
        }
    )
    storage.update_metadata({"dataset_size": float(storage.get_size())})  # MB
    on_progress("check", 0, 1)
    _read(spec, dataset, folder)
    on_progress("check", 1, 1)


def _task_means(spec: MetaEnvSpec, task_ids: np.ndarray, returns: np.ndarray) -> list[float | None]:
    """The mean return of each task's episodes, None for one without data."""
    present = set(task_ids.tolist())
    return [float(returns[task_ids == k].mean()) if k in present else None for k in range(len(spec.tasks))]


def _description(source: Source, name: str, wanted: dict[str, Any], collected: Collected) -> dict[str, Any]:
    """What the metadata says of the dataset, apart from its content."""
    spec = source.spec
    return {
        "env": spec.name,
        "level": name,
        "behavior": "imported",
        "task_set": json.loads(spec.tasks.to_json()),
        "recipe": wanted,
        "revisions": {"dataset": DATASET_REVISION, "environment": spec.revision, "importer": IMPORTER_REVISION},
        "origin": {
            "format": wanted["format"],
            "sha256": wanted["sources_sha256"],
            "tasks": collected.tasks,
            "remarks": {remark: count for remark, count in source.remarks.items() if count},
        },
    }


@contextmanager
def _replacing(final: Path, dataset: str, data_dir: str | Path | None) -> Iterator[Path]:
    """A folder to write the data to, which becomes `final` / "data" if all goes well and leaves nothing otherwise."""
    temporary, replaced = (final.with_name(f".{final.name}.{suffix}") for suffix in ("new", "old"))
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(final.with_name(f".{final.name}.lock")):
            try:
                _remove(temporary, replaced)
                yield temporary / "data"
                if final.exists():
                    final.rename(replaced)
                temporary.rename(final)
            finally:
                _remove(temporary, replaced)
    except OSError as error:
        root = datasets_root(data_dir)
        raise DatasetWriteError(f"cannot write {dataset} below {root}: {one_line(error)}") from error


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _present(spec: MetaEnvSpec, dataset: str, folder: Path) -> dict[str, Any] | None:
    """The metadata of an intact dataset in `folder`, None if there is no such thing."""
    try:
        return _read(spec, dataset, folder)[0]
    except DatasetError:
        return None


def _read(spec: MetaEnvSpec, dataset: str, folder: Path) -> tuple[dict[str, Any], Arrays, np.ndarray]:
    """The metadata, the arrays and the task id of each episode.

    Raises DatasetError where they do not have their hash or are of another version of the meta-environment.
    """
    omrl = read_metadata(dataset, folder)
    differing = [key for key, value in _world(spec).items() if omrl["recipe"].get(key) != value]
    if differing:
        raise DatasetError(f"{folder}: was imported for another {' and '.join(differing)}; import it again")
    try:
        arrays, task_ids = read_indexed(folder, spec)
    except (OSError, KeyError, ValueError, BadZipFile):
        arrays, attributes = read_hdf5(folder / HDF5_NAME, spec)
        task_ids = attributes["options/task_id"]
    if content_sha256(arrays, task_ids) != omrl["content_sha256"]:
        raise DatasetError(f"{folder / HDF5_NAME}: the content does not have its SHA-256; import it again")
    return omrl, arrays, task_ids


def load_imported(env: str, name: str, *, data_dir: str | Path | None = None) -> MultiTaskDataset:
    """An imported dataset as contiguous tensors, its content hash verified.

    The splits of `spec.tasks` list only tasks that have data; numbers and parameters are the meta-environment's.
    Raises DatasetError, one line, where it is not there, damaged, or was imported for another version of the
    meta-environment.
    """
    spec = get_meta_env(env)
    dataset, folder = _folder(spec, name, data_dir)
    omrl, arrays, task_ids = _read(spec, dataset, folder)
    return as_tensors(
        partial_spec(spec, task_ids.tolist()), name, arrays, task_ids, omrl | {"id": dataset, "state": UNPINNED}
    )


def _folder(spec: MetaEnvSpec, name: str, data_dir: str | Path | None) -> tuple[str, Path]:
    """The Minari id and the folder of an import, which has to be there."""
    dataset = import_id(spec, name)
    folder = data_folder(dataset, data_dir)
    if not folder.exists():
        command = f"bench data import FORMAT PATH --env {spec.name} --name {name}"
        raise DatasetError(f"{dataset}: not there; import it: {command}")
    return dataset, folder


def describe_import(env: str, name: str, *, data_dir: str | Path | None = None) -> dict[str, Any]:
    """What is known of one imported dataset, without reading its arrays.

    `id`, `env`, `level` (its name), `behavior`, `path`, `state`, `episodes`, `transitions`, `size` (bytes), `recipe`,
    `origin`, `recipe_sha256` and `content_sha256`. Raises DatasetError where it is not there or its metadata damaged.
    """
    dataset, folder = _folder(get_meta_env(env), name, data_dir)
    omrl = read_metadata(dataset, folder)
    kept = ("env", "level", "behavior", "episodes", "transitions", "recipe", "recipe_sha256", "content_sha256")
    size = sum(file.stat().st_size for file in folder.iterdir())
    origin = {key: value for key, value in omrl["origin"].items() if key != "tasks"}
    place = {"id": dataset, "path": str(folder.parent), "state": UNPINNED, "size": size, "origin": origin}
    return place | {key: omrl[key] for key in kept}


def validate_import(env: str, name: str, *, data_dir: str | Path | None = None) -> None:
    """Check every array and episode of an import and that it has its hash. Raises DatasetError, one line."""
    spec = get_meta_env(env)
    dataset, folder = _folder(spec, name, data_dir)
    omrl, file = read_metadata(dataset, folder), folder / HDF5_NAME
    arrays, attributes = read_episodes(spec, file)
    if content_sha256(arrays, attributes["options/task_id"]) != omrl["content_sha256"]:
        raise DatasetError(f"{file}: the content does not have its SHA-256; import it again")


def list_imports(data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """`describe_import` of every import; of a damaged one only `id`, `env`, `level`, `behavior` and why as `state`."""
    found = []
    for spec in usable_meta_envs():
        ending = f"-v{DATASET_REVISION}"
        for folder in sorted(datasets_root(data_dir).glob(f"omrl/{spec.name}/[!.]*{ending}")):
            name = folder.name.removesuffix(ending)
            if NAME.fullmatch(name) and name not in RESERVED:
                try:
                    found.append(describe_import(spec.name, name, data_dir=data_dir))
                except DatasetError as error:
                    about = {"id": import_id(spec, name), "env": spec.name, "level": name, "behavior": "imported"}
                    found.append(about | {"state": str(error)})
    return found
