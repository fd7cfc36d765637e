"""What the importers share: what was asked for, the rows that a file holds, and the episodes they are."""

import re
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from omrlbench.data.episodes import DatasetError, naming
from omrlbench.envs.registry import MetaEnvSpec

ROUNDING = 1e-6  # by which an action may exceed [-1, 1]


@dataclass(frozen=True)
class Source:
    """The data to import and what the user said of them.

    `steps` are the training steps of the behaviour policies to take, all if empty. `action_scale` is the size of the
    source's largest action. `remarks` counts, by a line of text, what an importer left out or changed.
    """

    path: Path
    spec: MetaEnvSpec
    allow_pickle: bool = False
    by_number: bool = False
    steps: tuple[int, ...] = ()
    action_scale: float | None = None
    remarks: Counter[str] = field(default_factory=Counter)

    @cached_property
    def dimensions(self) -> tuple[int, int]:
        """Of an observation and an action of the meta-environment."""
        env = self.spec.make(0)
        return env.observation_space.shape[0], env.action_space.shape[0]


@dataclass(frozen=True)
class Episode:
    """T steps one after the other: float32 (T, dim) arrays and float64 `rewards` (T,).

    `terminated` tells whether the environment ended the episode; otherwise time did, or the source breaks off.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: np.ndarray
    terminated: bool
    policy_step: int = -1  # training step of the behaviour policy, -1 if unknown


@dataclass(frozen=True)
class SourceTask:
    """One task of the source, and how to load its episodes.

    `number` is the source's, or the position where it has none. `parameters` are those that the source states, as a
    list or by name, exact to `precision`; None if it states none. `foreign` says why the number cannot be that of a
    task of the meta-environment, where this is so.
    """

    number: int
    files: tuple[Path, ...]
    load: Callable[[], list[Episode]]
    parameters: list[float] | dict[str, Any] | None = None
    precision: float = 1e-6
    foreign: str = ""


@dataclass(frozen=True)
class Rows:
    """N transitions in the order of time: episodes one after the other.

    `ends` (N,) marks where the source ends an episode, `terminal` (N,) where it says that the environment did.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: np.ndarray
    ends: np.ndarray
    terminal: np.ndarray

    def __getitem__(self, index: Any) -> "Rows":
        return Rows(*(values[index] for values in vars(self).values()))


def make_rows(source: Source, place: Path, ends: Any = None, terminal: Any = None, **columns: Any) -> Rows:
    """The rows with `columns` as named in `Rows`, in the types of the store and with actions in [-1, 1].

    Raises DatasetError where sizes differ from each other or from the meta-environment's, where a number is not
    finite, and where an action is out of range.
    """
    obs_dim, action_dim = source.dimensions
    rewards = as_numbers(place, "rewards", columns["rewards"]).reshape(-1)
    count = len(rewards)
    widths = {"observations": obs_dim, "actions": action_dim, "next_observations": obs_dim}
    tables = {name: as_numbers(place, name, columns[name], np.float32) for name in widths}
    for name, table in tables.items():
        if table.shape != (count, widths[name]):
            raise DatasetError(f"{place}: {name} {table.shape}, {source.spec.name} needs ({count}, {widths[name]})")
    actions = tables["actions"] / np.float32(source.action_scale or 1.0)
    if count and np.abs(actions).max() > 1 + ROUNDING:
        raise DatasetError(
            f"{place}: actions reach {np.abs(tables['actions']).max():g}, "
            f"they are within [-1, 1] here; --action-scale SIZE divides them"
        )
    tables["actions"] = np.clip(actions, -1, 1)
    flags = (np.zeros(count, bool) if values is None else as_flags(place, values, count) for values in (ends, terminal))
    return Rows(tables["observations"], tables["actions"], rewards, tables["next_observations"], *flags)


def as_numbers(place: Path, name: str, values: Any, dtype: type = np.float64) -> np.ndarray:
    """A copy of `values`, which may be an array of arrays. Raises DatasetError where they are not finite numbers."""
    of_arrays = isinstance(values, np.ndarray) and values.dtype.hasobject
    try:
        numbers = np.array(list(values) if of_arrays else values, dtype)
    except (TypeError, ValueError):
        raise DatasetError(f"{place}: {name} are not numbers of one shape") from None
    if not np.isfinite(numbers).all():
        raise DatasetError(f"{place}: {name} hold NaN or infinity")
    return numbers


def as_flags(place: Path, values: Any, count: int) -> np.ndarray:
    """`values` (count,) or (count, 1) as bool."""
    flags = as_numbers(place, "flags", values).reshape(-1)
    if len(flags) != count:
        raise DatasetError(f"{place}: {len(flags)} flags for {count} steps")
    return flags != 0


def episodes_of(source: Source, rows: Rows, policy_step: int = -1) -> list[Episode]:
    """Cut `rows` into episodes of at most the horizon.

    An episode ends where the source says so, and where a step does not begin at the observation that the one before
    led to. It is terminated only if the source says so, the environment can end episodes at all, and it did not last
    a multiple of the horizon: sources flag time limits as terminals. One that is longer than the horizon is cut into
    pieces, each of which ends by truncation; no step is lost.
    """
    horizon = source.spec.horizon
    episodes = []
    for start, end in runs(rows):
        ended = bool(rows.terminal[end - 1]) and (end - start) % horizon != 0 and can_terminate(source.spec)
        if end - start > horizon:
            source.remarks[f"episodes longer than {horizon} steps, cut into pieces"] += 1
        for first in range(start, end, horizon):
            last = min(first + horizon, end)
            piece = rows[first:last]
            columns = piece.observations, piece.actions, piece.rewards, piece.next_observations
            episodes.append(Episode(*columns, ended and last == end, policy_step))
    return episodes


def runs(rows: Rows) -> list[tuple[int, int]]:
    """Start and end of each run of steps that follow each other."""
    jumps = (rows.next_observations[:-1] != rows.observations[1:]).any(-1)
    stops = np.flatnonzero(rows.ends[:-1] | jumps) + 1
    bounds = [0, *stops.tolist(), len(rows.rewards)]
    return [pair for pair in zip(bounds[:-1], bounds[1:], strict=True) if pair[0] < pair[1]]


def can_terminate(spec: MetaEnvSpec) -> bool:
    """Whether episodes of `spec` can end before their time limit."""
    from omrlbench.envs.locomotion import Locomotion

    return spec.locomotion is not None and type(spec.family()).terminated is not Locomotion.terminated


def numbered(path: Path, pattern: str, what: str) -> dict[int, Path]:
    """The entries of the folder `path` whose whole name matches `pattern`, in the order of its first group.

    Raises DatasetError where there is none, and where two have the same number.
    """
    if not path.is_dir():
        raise DatasetError(f"{path}: is no folder; give the one that holds {what}")
    found: dict[int, Path] = {}
    for entry in sorted(path.iterdir()):
        match = re.fullmatch(pattern, entry.name)
        if match and int(match[1]) in found:
            raise DatasetError(f"{path}: {found[int(match[1])].name} and {entry.name} are both of task {int(match[1])}")
        if match:
            found[int(match[1])] = entry
    if not found:
        raise DatasetError(f"{path}: holds no {what}")
    return dict(sorted(found.items()))


def check_columns(file: Path, required: Sequence[str], found: Container[str]) -> None:
    """Raise DatasetError naming the required columns that `file` does not hold."""
    missing = [name for name in required if name not in found]
    if missing:
        raise DatasetError(f"{file}: has no {' and no '.join(missing)}")


def read_columns(file: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Arrays of an HDF5 file by name. Raises DatasetError where a required one is missing."""
    with naming(file), h5py.File(file) as stored:
        check_columns(file, required, stored)
        return {name: stored[name][()] for name in (*required, *optional) if name in stored}
