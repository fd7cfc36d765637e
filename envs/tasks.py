"""Frozen task sets: the tasks of a meta-environment and their train, validation and test split.

A task set is a JSON file under `task_sets/`, made once by the functions at the end of this module and never
drawn again at run time. `tests/envs/test_tasks.py` draws each one afresh and compares.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

import numpy as np

SPLITS = ("train", "validation", "test")
PUBLISHED_SEED = 1337  # the seed of the FOCAL authors' environments


@dataclass(frozen=True)
class TaskSet:
    """The tasks of one meta-environment.

    `parameters` is a float64 array of shape (n_tasks, n_parameters); row k is task k. `splits` maps each name
    of `SPLITS` to a tuple of task ids.
    """

    name: str
    version: int
    parameter_names: tuple[str, ...]
    parameters: np.ndarray
    splits: dict[str, tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.parameters)

    def to_json(self) -> str:
        table = {
            "name": self.name,
            "version": self.version,
            "parameter_names": list(self.parameter_names),
            "splits": {split: list(ids) for split, ids in self.splits.items()},
            "parameters": self.parameters.tolist(),
        }
        return json.dumps(table, indent=1) + "\n"

    @cached_property
    def sha256(self) -> str:
        """Of `to_json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> "TaskSet":
        table = json.loads(text)
        parameters = np.array(table["parameters"])
        parameters.flags.writeable = False
        return cls(
            table["name"],
            table["version"],
            tuple(table["parameter_names"]),
            parameters,
            {split: tuple(ids) for split, ids in table["splits"].items()},
        )


@cache
def load_task_set(name: str, package: str = "omrlbench.envs") -> TaskSet:
    return TaskSet.from_json(files(package).joinpath("task_sets", f"{name}.json").read_text())


def draw_half_circle() -> TaskSet:
    """100 goals on the upper unit half circle, angles linspace(0, pi) with both ends, as the authors do.

    The authors split them with an unseeded generator; here the last 20 of a RandomState(1337) permutation are
    the test tasks. Tasks 100 to 109 are the validation tasks, with angles drawn from U(0, pi).
    """
    order = np.random.RandomState(PUBLISHED_SEED).permutation(100)
    validation_angles = np.random.RandomState(PUBLISHED_SEED + 1).uniform(0.0, np.pi, 10)
    angles = np.concatenate([np.linspace(0.0, np.pi, 100), validation_angles])
    goals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    splits = {
        "train": tuple(sorted(order[:80].tolist())),
        "validation": tuple(range(100, 110)),
        "test": tuple(sorted(order[80:].tolist())),
    }
    return TaskSet("half_circle", 1, ("goal_x", "goal_y"), goals, splits)


def draw_wind() -> TaskSet:
    """50 winds from U(-0.05, 0.05) as RandomState(1337) draws them for the authors: all x, then all y.

    The winds are independent draws, so the first 40 are the train tasks and the last 10 the test tasks. Tasks
    50 to 59 are the validation tasks, from RandomState(1338).
    """

    def winds(seed: int, count: int) -> np.ndarray:
        random = np.random.RandomState(seed)
        return np.stack([random.uniform(-0.05, 0.05, count), random.uniform(-0.05, 0.05, count)], axis=1)

    parameters = np.concatenate([winds(PUBLISHED_SEED, 50), winds(PUBLISHED_SEED + 1, 10)])
    splits = {"train": tuple(range(40)), "validation": tuple(range(50, 60)), "test": tuple(range(40, 50))}
    return TaskSet("wind", 1, ("wind_x", "wind_y"), parameters, splits)


def draw_velocities() -> TaskSet:
    """100 velocities from U(0, 3) m/s as RandomState(1337) draws them for the authors: 80 train, then 20 test.

    Tasks 100 to 109 are the validation tasks, from RandomState(1338).
    """
    published = np.random.RandomState(PUBLISHED_SEED).uniform(0.0, 3.0, 100)
    validation = np.random.RandomState(PUBLISHED_SEED + 1).uniform(0.0, 3.0, 10)
    splits = {"train": tuple(range(80)), "validation": tuple(range(100, 110)), "test": tuple(range(80, 100))}
    return TaskSet("velocities", 1, ("velocity",), np.concatenate([published, validation])[:, None], splits)


def draw_back_forward() -> TaskSet:
    """Two directions, -1 first: the same two tasks train and test, as in the paper, and there is no validation."""
    return _directions("directions_back_forward", -1.0, 1.0)


def draw_forward_back() -> TaskSet:
    """The same with 1 first, which is the order of the authors' ant."""
    return _directions("directions_forward_back", 1.0, -1.0)


def _directions(name: str, first: float, second: float) -> TaskSet:
    splits = {"train": (0, 1), "validation": (), "test": (0, 1)}
    return TaskSet(name, 1, ("direction",), np.array([[first], [second]]), splits)


WALKER_SHAPES = {"body_mass": (8,), "body_inertia": (8, 3), "dof_damping": (9,), "geom_friction": (8, 3)}


def draw_walker_multipliers() -> TaskSet:
    """60 tasks of 65 multipliers, base^u with u from U(-3, 3): 40 train, 10 test, 10 validation.

    Bases and order of draws (mass, inertia, damping, friction) as in the authors' program, whose draws are unseeded;
    here RandomState(1337) draws the first 50 tasks one after the other and RandomState(1338) the validation tasks.
    """
    bases = {"body_mass": 1.5, "body_inertia": 1.5, "dof_damping": 1.3, "geom_friction": 1.5}

    def multipliers(random: np.random.RandomState) -> np.ndarray:
        draws = [bases[name] ** random.uniform(-3.0, 3.0, shape) for name, shape in WALKER_SHAPES.items()]
        return np.concatenate([draw.ravel() for draw in draws])

    published, validation = (np.random.RandomState(PUBLISHED_SEED + k) for k in (0, 1))
    parameters = [multipliers(published) for _ in range(50)] + [multipliers(validation) for _ in range(10)]
    elements = [(name, index) for name, shape in WALKER_SHAPES.items() for index in np.ndindex(shape)]
    names = [f"{name}[{','.join(map(str, index))}]" for name, index in elements]
    splits = {"train": tuple(range(40)), "validation": tuple(range(50, 60)), "test": tuple(range(40, 50))}
    return TaskSet("walker_multipliers", 1, tuple(names), np.array(parameters), splits)


DRAWS = {
    "half_circle": draw_half_circle,
    "wind": draw_wind,
    "velocities": draw_velocities,
    "directions_back_forward": draw_back_forward,
    "directions_forward_back": draw_forward_back,
    "walker_multipliers": draw_walker_multipliers,
}
