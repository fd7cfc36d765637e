"""Shipped behaviour checkpoints: making them, choosing the steps of each level, and reading them back.

One safetensors file per (behaviour, kind) holds the actors' weights at the few training steps that the levels need:
float16 of the point robots, whose data come from these rounded policies, float32 of the others.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from omrlbench.data.behavior import BehaviorPolicy, rollout
from omrlbench.data.sac import BehaviorConfig, BehaviorTraining
from omrlbench.envs.registry import META_ENVS, MetaEnvSpec
from omrlbench.errors import BenchError
from omrlbench.process import locked

MIXED_CHECKPOINTS = 6
Steps = int | list[int]  # a training step for all tasks, or every task's own
LOCOMOTION = BehaviorConfig(
    random_steps=200,
    checkpoint_every=400,
    scoring_episodes=2,
    conditioned_batch_size=256,
    actor_width=256,
    critic_width=256,
    learning_rate=5e-4,
)
TWO_TASKS = replace(
    LOCOMOTION,
    scoring_episodes=25,
    steps_by_task=True,
    members_per_task=16,
    updates_per_step=4,
    decay_steps=4000,
    checkpoint_every=1000,
    batch_size=128,
    actor_width=192,
)
BEHAVIOR_CONFIGS = {  # of the shipped checkpoints
    "point_robot": BehaviorConfig(),
    "point_robot_wind": BehaviorConfig(steps=10_000, target_entropy=-2.0),
    "cheetah_vel": replace(LOCOMOTION, steps=7200, updates_per_step=12),
    "cheetah_fwd_back": replace(TWO_TASKS, steps=26_000),
    "ant_fwd_back": replace(
        TWO_TASKS, steps=20_000, batch_size=256, learning_rate=7e-4, target_rate=0.02, discount=0.98
    ),
    "walker_params": replace(LOCOMOTION, steps=27_000, decay_steps=4000, updates_per_step=10),
}


@dataclass(frozen=True)
class Checkpoints:
    """The behaviour policies of one meta-environment: which training steps each level uses, and the policies.

    `levels` maps meta-environment to level to training steps, each one for all tasks or a list of every task's own.
    `returns`, the learning curve, maps a training step to
    the mean return over the training tasks under each kind of reward (of the point robots, the stored steps alone).
    `task_returns` maps each stored step to those of all tasks (of the point robots, none). `sha256` is the file's.
    """

    spec: MetaEnvSpec
    kind: str
    path: Path
    sha256: str
    config: BehaviorConfig
    levels: dict[str, dict[str, list[Steps]]]
    returns: dict[int, dict[str, float]]
    task_returns: dict[int, dict[str, list[float]]]

    def policy(self, steps: Steps) -> BehaviorPolicy:
        """The policies of all tasks at one training step, or each at its own."""
        envs = self.spec.make_vector([0])
        obs_dim, action_dim = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
        policy = BehaviorPolicy(self.kind, self.spec.tasks, obs_dim, action_dim, self.config.actor_width)
        with safe_open(self.path, framework="pt") as stored:

            def read(name: str) -> Tensor:
                if isinstance(steps, int):
                    return stored.get_tensor(f"{steps}/{name}").float()
                return torch.stack([stored.get_tensor(f"{own}/{name}")[task] for task, own in enumerate(steps)])

            weights = {name: read(name) for name in policy.actor.state_dict()}
        policy.actor.load_state_dict(weights)
        return policy


def checkpoints_path(spec: MetaEnvSpec, kind: str) -> Path:
    folder = files(spec.resources or "omrlbench.data").joinpath("policies")
    return Path(str(folder.joinpath(f"{spec.behavior}-{kind}.safetensors")))


def behavior_config(spec: MetaEnvSpec) -> BehaviorConfig:
    """How the behaviour policies of `spec` are trained."""
    return BEHAVIOR_CONFIGS[spec.behavior] if spec.resources is None else BehaviorConfig(**spec.behavior_values)


def load_checkpoints(spec: MetaEnvSpec, kind: str) -> Checkpoints:
    path = checkpoints_path(spec, kind)
    if not path.exists():
        raise FileNotFoundError(
            f"no {kind} behaviour policies for {spec.name}; train them: "
            f"bench data train-behavior {spec.name} --behavior {kind}"
        )
    about, sha256 = _read(path, path.stat().st_mtime_ns)
    return Checkpoints(
        spec,
        kind,
        path,
        sha256,
        BehaviorConfig(**about["config"]),
        about["levels"],
        _by_step(about["returns"]),
        _by_step(about.get("task_returns", {})),
    )


@cache
def _read(path: Path, modified: int) -> tuple[dict[str, Any], str]:
    """What the file that was `modified` then says of its checkpoints, and its SHA-256: suites ask for every cell."""
    with safe_open(path, framework="pt") as stored:
        return json.loads(stored.metadata()["omrl"]), hashlib.sha256(path.read_bytes()).hexdigest()


def _by_step(table: dict[str, Any]) -> dict[int, Any]:
    return {int(step): value for step, value in table.items()}


def make_checkpoints(
    spec: MetaEnvSpec,
    kind: str,
    folder: Path,
    on_progress: Callable[[int, int, dict[str, float]], None] = lambda step, steps, returns: None,
) -> Path:
    """Train the behaviour policies of `spec` and write the checkpoints that the levels need (minutes to an hour).

    `on_progress(step, steps, returns)` is told the last mean returns over the training tasks under each kind of reward.
    The training's state is kept in `folder` at every candidate, and a training found there goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state_file = folder / f"{spec.behavior}-{kind}.pt"
    with locked(state_file):
        path = _ship(spec, kind, _train(spec, kind, state_file, on_progress))
        state_file.unlink()
    return path


def _train(
    spec: MetaEnvSpec, kind: str, state_file: Path, on_progress: Callable[[int, int, dict[str, float]], None]
) -> dict[str, Any]:
    """The configuration, and by training step the snapshots of the actors and the returns of all tasks."""
    config = behavior_config(spec)
    training = BehaviorTraining(spec, kind, config)
    kept = {"config": asdict(config), "snapshots": {}, "returns": {}}  # by training step
    if state_file.exists():
        kept = torch.load(state_file)
        if kept["config"] != asdict(config):
            raise BenchError(f"{state_file} is a training with other settings; remove it to train anew")
        training.load_state_dict(kept.pop("training"))

    def on_checkpoint(training: BehaviorTraining) -> None:
        if training.step in kept["returns"]:
            return
        kept["snapshots"][training.step] = copy.deepcopy(training.policy.actor.state_dict())
        kept["returns"][training.step] = _task_returns(spec, training.policy, config)
        on_progress(training.step, config.steps, _training_means(spec, kept["returns"][training.step]))
        temporary = state_file.with_suffix(".new")
        torch.save(kept | {"training": training.state_dict()}, temporary)
        temporary.replace(state_file)

    def on_step(step: int) -> None:
        on_progress(step, config.steps, _training_means(spec, kept["returns"][max(kept["returns"])]))

    training.run(on_step, on_checkpoint)
    return kept


def _task_returns(spec: MetaEnvSpec, policy: BehaviorPolicy, config: BehaviorConfig) -> dict[str, list[float]]:
    """By kind of reward, the mean stochastic return of every task."""
    arrays = rollout(spec, policy, config.scoring_episodes, np.random.default_rng(config.seed))
    return {kind: arrays[f"{kind}_reward"].sum(-1).mean(1).tolist() for kind in spec.rewards}


def _training_means(spec: MetaEnvSpec, returns: dict[str, list[float]]) -> dict[str, float]:
    tasks = list(spec.tasks.splits["train"])
    return {kind: float(np.mean(np.array(values)[tasks])) for kind, values in returns.items()}


def _ship(spec: MetaEnvSpec, kind: str, kept: dict[str, Any]) -> Path:
    """Write the checkpoints that the levels use, with the learning curve of all."""
    curve = {step: _training_means(spec, returns) for step, returns in kept["returns"].items()}
    sharing = [env for env in META_ENVS.values() if env.behavior == spec.behavior] if spec.resources is None else [spec]
    choose = levels_by_task if kept["config"]["steps_by_task"] else levels_of_all
    levels = {env.name: choose(env, kept["returns"]) for env in sharing}
    used = sorted({int(step) for table in levels.values() for steps in table.values() for step in np.ravel(steps)})
    about = {
        "config": kept["config"],
        "levels": levels,
        "returns": curve,
        "task_returns": {step: kept["returns"][step] for step in used},
    }
    path = checkpoints_path(spec, kind)
    path.parent.mkdir(exist_ok=True)
    weights = {f"{step}/{name}": weight for step in used for name, weight in kept["snapshots"][step].items()}
    save_file(weights, path, metadata={"omrl": json.dumps(about)})
    return path


def levels_of_all(spec: MetaEnvSpec, returns: dict[int, dict[str, list[float]]]) -> dict[str, list[Steps]]:
    """`choose_levels` by the mean returns over the training tasks."""
    return choose_levels(spec, {step: _training_means(spec, values) for step, values in returns.items()})


def levels_by_task(spec: MetaEnvSpec, returns: dict[int, dict[str, list[float]]]) -> dict[str, list[Steps]]:
    """`choose_levels` of every task by itself, since agents of their own learn at speeds of their own."""
    tables = []
    for task in range(len(spec.tasks)):
        of_task = {step: {kind: each[task] for kind, each in values.items()} for step, values in returns.items()}
        tables.append(choose_levels(spec, of_task))
    return {level: [list(own) for own in zip(*(table[level] for table in tables), strict=True)] for level in tables[0]}


def choose_levels(spec: MetaEnvSpec, returns: dict[int, dict[str, float]]) -> dict[str, list[int]]:
    """Training steps of each level, from the mean returns of all candidates.

    random: the untrained policy; expert: the last; medium: nearest to half way between their returns; mixed: untrained
    to expert, the ones between nearest to even spacing of the dense return, which is what the policies maximise, each
    another one.
    """
    steps = sorted(returns)
    first, last = steps[0], steps[-1]
    half = np.mean([returns[step][spec.reward] for step in (first, last)])
    medium = min(steps, key=lambda k: abs(returns[k][spec.reward] - half))
    if len(steps) < MIXED_CHECKPOINTS:
        raise BenchError(
            f"{spec.name}: the mixed level needs {MIXED_CHECKPOINTS} checkpoints, there are {len(steps)}; "
            f"train with a smaller checkpoint_every"
        )
    aims = np.linspace(returns[first]["dense"], returns[last]["dense"], MIXED_CHECKPOINTS)[1:-1]
    between: list[int] = []
    for aim in aims:
        left = (step for step in steps[1:-1] if step not in between)
        between.append(min(left, key=lambda k: abs(returns[k]["dense"] - aim)))
    return {"random": [first], "medium": [medium], "expert": [last], "mixed": [first, *between, last]}


def expert_policy(spec: MetaEnvSpec, task_ids: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
    """The mean action of the expert level's behaviour policy: maps observations (n, obs_dim), one row per entry of
    `task_ids`, to actions (n, action_dim)."""
    checkpoints = load_checkpoints(spec, spec.behavior_kind)
    policy = checkpoints.policy(*checkpoints.levels[spec.name]["expert"])
    tasks = np.asarray(task_ids)
    place = np.array([np.count_nonzero(tasks[:k] == task) for k, task in enumerate(tasks)])  # among those of its task

    def act(observations: np.ndarray) -> np.ndarray:
        table = np.zeros((len(spec.tasks), place.max() + 1, observations.shape[1]), np.float32)
        table[tasks, place] = observations
        return policy.mean_act(table)[tasks, place]

    return act
