"""Reference returns: what a uniformly random and an expert policy earn in each task, for score normalisation.

The expert is told the task: of point robots the optimal controller, of the others the mean action of the expert
level's behaviour policy. Beside them stands what one expert earns that is told the same training task everywhere, the
one with which it earns most in the training tasks: how far one comes without adaptation. The returns are those of the
meta-environment's own reward. They are frozen in `references.json`, which
`python -m omrlbench.envs.references [NAME ...]` writes; `tests/envs/test_references.py` measures afresh and compares.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from omrlbench.envs.registry import META_ENVS, MetaEnvSpec, get_meta_env

EPISODES = 200  # per task and policy
LOCOMOTION_EPISODES = 100  # the same where episodes are long
SEED = 2024  # of the random policy's actions; in episode k of n tasks task i starts from SEED + k * n + i
DECIMALS = 6


@dataclass(frozen=True)
class References:
    """Mean returns per episode of the random policy, the expert and one task's expert over the tasks of a split."""

    random: float
    expert: float
    one_expert: float | None = None  # where it was measured


def measure(spec: MetaEnvSpec, episodes: int | None = None, told: int | None = None) -> dict[str, Any]:
    """One meta-environment's entry: `revision`, and the mean return per task of `expert`, `random` and `one_expert`.

    The latter is `told` this training task, by default the best one, which takes long to find.
    """
    episodes = episodes or (LOCOMOTION_EPISODES if spec.locomotion else EPISODES)
    tasks = range(len(spec.tasks))
    envs = spec.make_vector(tasks)
    low, high = envs.action_space.low, envs.action_space.high
    generator = np.random.default_rng(SEED)
    told = best_to_be_told(spec) if told is None else told
    return {
        "revision": spec.revision,
        "expert": _mean_returns(envs, spec.oracle_policy(tasks), episodes),
        "random": _mean_returns(envs, lambda _: generator.uniform(low, high).astype(low.dtype), episodes),
        "told": told,
        "one_expert": _mean_returns(envs, spec.oracle_policy([told] * len(tasks)), episodes),
    }


def best_to_be_told(spec: MetaEnvSpec) -> int:
    """The training task whose expert earns most in one episode in each training task."""
    tasks = spec.tasks.splits["train"]
    envs = spec.make_vector(tasks)
    means = {task: _returns(envs, spec.oracle_policy([task] * len(tasks)), SEED).mean() for task in tasks}
    return max(means, key=means.get)


def _mean_returns(envs: VectorEnv, policy: Callable[[np.ndarray], np.ndarray], episodes: int) -> list[float]:
    returns = sum(_returns(envs, policy, SEED + k * envs.num_envs) for k in range(episodes)) / episodes
    return returns.round(DECIMALS).tolist()


def _returns(envs: VectorEnv, policy: Callable[[np.ndarray], np.ndarray], seed: int) -> np.ndarray:
    """The return of each member's first episode after a reset with `seed`, shape (num_envs,)."""
    observations, _ = envs.reset(seed=seed)
    returns, running = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
    while running.any():
        observations, rewards, terminated, truncated, _ = envs.step(policy(observations))
        returns += running * rewards
        running &= ~(terminated | truncated)
    return returns


def _file(spec: MetaEnvSpec | None = None) -> Path:
    package = "omrlbench.envs" if spec is None or spec.resources is None else spec.resources
    return Path(str(files(package).joinpath("references.json")))


@cache
def _frozen(path: Path | None = None) -> dict[str, dict[str, Any]]:
    path = path or _file()
    return json.loads(path.read_text()) if path.exists() else {}


def reference_returns(name: str, split: str) -> References:
    """The references of a meta-environment, averaged over the tasks of `split` (train, validation or test).

    Raises ValueError for an unknown name or split, for a split without tasks, and if the file was measured at another
    revision.
    """
    spec = get_meta_env(name)
    if split not in spec.tasks.splits:
        raise ValueError(f"no split {split!r} of {name}, there are {', '.join(spec.tasks.splits)}")
    if not spec.tasks.splits[split]:
        raise ValueError(f"{name} has no {split} tasks")
    entry = _frozen(_file(spec)).get(name, {"revision": "none"})
    if entry["revision"] != spec.revision:
        raise ValueError(
            f"references.json has revision {entry['revision']} of {name}, "
            f"the environment has {spec.revision}; run python -m omrlbench.envs.references {name}"
        )
    ids = list(spec.tasks.splits[split])
    policies = [policy for policy in ("random", "expert", "one_expert") if policy in entry]
    return References(**{policy: float(np.mean(np.array(entry[policy])[ids])) for policy in policies})


def normalized_score(name: str, split: str, mean_return: float) -> float:
    """(R - R_random) / (R_expert - R_random), each R a mean over the tasks of `split`: 0 random, 1 expert."""
    references = reference_returns(name, split)
    return (mean_return - references.random) / (references.expert - references.random)


def main(names: Sequence[str]) -> None:
    """Measure the meta-environments called `names`, by default all built-in ones, and write their entries."""
    for spec in map(get_meta_env, names or META_ENVS):
        path = _file(spec)
        table = (json.loads(path.read_text()) if path.exists() else {}) | {spec.name: measure(spec)}
        order = [name for name in META_ENVS if name in table]
        order += [name for name in table if name not in META_ENVS]
        path.write_text(json.dumps({name: table[name] for name in order}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
