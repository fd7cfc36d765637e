"""A dataset whose episodes end early, made by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from omrlbench.data import generate
from omrlbench.data.episodes import Arrays
from omrlbench.envs.registry import get_meta_env

SPEC = get_meta_env("sparse_point_robot")
LENGTHS = (1, 7, SPEC.horizon)  # of the three episodes of every task


class Ragged(NamedTuple):
    folder: Path
    rolled: Arrays  # what `rollout` gave
    lengths: np.ndarray  # (tasks, episodes)


def ragged_arrays() -> Arrays:
    """What `rollout` returns, with episodes that terminate after `LENGTHS` steps.

    In even tasks the last episode does not terminate, but reaches the time limit; in odd tasks it does both at once.
    """
    shape = (len(SPEC.tasks), len(LENGTHS))
    random = np.random.default_rng(0)
    arrays = {
        "observations": random.normal(size=(*shape, SPEC.horizon + 1, 2)),
        "actions": random.uniform(-1, 1, (*shape, SPEC.horizon, 2)),
        **{f"{kind}_reward": random.normal(size=(*shape, SPEC.horizon)) for kind in SPEC.rewards},
    }
    for name, values in arrays.items():
        for episode, length in enumerate(LENGTHS):
            values[:, episode, length + (name == "observations") :] = 0
    terminated, truncated = np.zeros((2, *shape, SPEC.horizon), bool)
    for episode, length in enumerate(LENGTHS):
        terminated[:, episode, length - 1] = True
    terminated[::2, -1, -1] = False
    truncated[:, -1, -1] = True
    singles = {name: values.astype(np.float32) for name, values in arrays.items()}
    return singles | {"terminated": terminated, "truncated": truncated}


@pytest.fixture(scope="session")
def make_from() -> Callable[[Arrays, Path], None]:
    """Makes the random dataset of the sparse point robot from arrays in place of a rollout."""

    def make(arrays: Arrays, folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generate, "rollout", lambda *arguments: dict(arrays))
            generate.make_dataset(SPEC, "random", "per_task", folder, episodes=len(LENGTHS))

    return make


@pytest.fixture(scope="session")
def ragged(make_from, tmp_path_factory) -> Ragged:
    """The random dataset of the sparse point robot with ragged episodes. Tests only read it."""
    folder, rolled = tmp_path_factory.mktemp("ragged"), ragged_arrays()
    make_from(rolled, folder)
    return Ragged(folder, rolled, np.tile(LENGTHS, (len(SPEC.tasks), 1)))
