"""Shipped behaviour checkpoints: making them, choosing the steps of each level, and reading them back.

One safetensors file per (behaviour, kind) holds the actors' weights in float16 at the few training steps that the
levels need. The policies that collect data are these rounded ones.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file

from omrlbench.data.behavior import BehaviorConfig, BehaviorPolicy, rollout, train_behavior
from omrlbench.envs.references import normalized_score
from omrlbench.envs.registry import META_ENVS, MetaEnvSpec

CHECKPOINT_EVERY = 25  # training steps between candidates
SCORING_EPISODES = 5  # stochastic episodes per training task that score a candidate
MIXED_CHECKPOINTS = 6
BEHAVIOR_CONFIGS = {  # of the shipped checkpoints
    "point_robot": BehaviorConfig(),
    "point_robot_wind": BehaviorConfig(steps=10_000, target_entropy=-2.0),
}


@dataclass(frozen=True)
class Checkpoints:
    """The behaviour policies of one meta-environment: which training steps each level uses, and the policies.

    `levels` maps meta-environment to level to training steps; `returns` maps a stored step to the mean return over
    the training tasks under each reward; `sha256` identifies the file.
    """

    spec: MetaEnvSpec
    kind: str
    path: Path
    sha256: str
    config: BehaviorConfig
    levels: dict[str, dict[str, tuple[int, ...]]]
    returns: dict[int, dict[str, float]]

    def policy(self, step: int) -> BehaviorPolicy:
        envs = self.spec.make_vector([0])
        obs_dim, action_dim = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
        policy = BehaviorPolicy(self.kind, self.spec.tasks, obs_dim, action_dim, self.config.actor_width)
        with safe_open(self.path, framework="pt") as stored:
            weights = {name: stored.get_tensor(f"{step}/{name}").float() for name in policy.actor.state_dict()}
        policy.actor.load_state_dict(weights)
        return policy


def checkpoints_path(spec: MetaEnvSpec, kind: str) -> Path:
    return Path(str(files("omrlbench.data").joinpath("policies", f"{spec.behavior}-{kind}.safetensors")))


def load_checkpoints(spec: MetaEnvSpec, kind: str) -> Checkpoints:
    path = checkpoints_path(spec, kind)
    if not path.exists():
        raise FileNotFoundError(
            f"no {kind} behaviour policies for {spec.name}; train them: "
            f"bench data train-behavior {spec.name} --behavior {kind}"
        )
    with safe_open(path, framework="pt") as stored:
        about = json.loads(stored.metadata()["omrl"])
    return Checkpoints(
        spec,
        kind,
        path,
        hashlib.sha256(path.read_bytes()).hexdigest(),
        BehaviorConfig(**about["config"]),
        {env: {level: tuple(steps) for level, steps in table.items()} for env, table in about["levels"].items()},
        {int(step): returns for step, returns in about["returns"].items()},
    )


def make_checkpoints(
    spec: MetaEnvSpec,
    kind: str,
    on_progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Path:
    """Train the behaviour policies of `spec` and write the checkpoints that the levels need (minutes on one core).

    `on_progress(step, steps, returns)` is told the mean return over training tasks under both rewards.
    """
    config = BEHAVIOR_CONFIGS[spec.behavior]
    train_tasks = list(spec.tasks.splits["train"])
    snapshots, returns = {}, {}

    def keep(step: int, policy: BehaviorPolicy) -> None:
        snapshots[step] = {name: weight.half() for name, weight in policy.actor.state_dict().items()}
        episodes = rollout(spec, policy, SCORING_EPISODES, np.random.default_rng(config.seed))
        returns[step] = {
            kind: float(episodes[f"{kind}_reward"][train_tasks].sum(-1).mean()) for kind in ("dense", "sparse")
        }
        if on_progress:
            on_progress(step, config.steps, returns[step])

    train_behavior(spec, kind, config, CHECKPOINT_EVERY, keep)
    levels = {env.name: choose_levels(env, returns) for env in META_ENVS.values() if env.behavior == spec.behavior}
    used = sorted({step for table in levels.values() for steps in table.values() for step in steps})
    about = {"config": asdict(config), "levels": levels, "returns": {step: returns[step] for step in used}}
    path = checkpoints_path(spec, kind)
    path.parent.mkdir(exist_ok=True)
    weights = {f"{step}/{name}": weight for step in used for name, weight in snapshots[step].items()}
    save_file(weights, path, metadata={"omrl": json.dumps(about)})
    return path


def choose_levels(spec: MetaEnvSpec, returns: dict[int, dict[str, float]]) -> dict[str, list[int]]:
    """Training steps of each level, from the mean returns of all candidates over the training tasks.

    random: the untrained policy; expert: the last; medium: score nearest 0.5; mixed: untrained to expert, the ones
    between nearest to even spacing of the dense return, which is what the behaviour policies maximise.
    """
    steps = sorted(returns)
    first, last = steps[0], steps[-1]
    medium = min(steps, key=lambda k: abs(normalized_score(spec.name, "train", returns[k][spec.reward]) - 0.5))
    aims = np.linspace(returns[first]["dense"], returns[last]["dense"], MIXED_CHECKPOINTS)[1:-1]
    between = [min(steps, key=lambda k: abs(returns[k]["dense"] - aim)) for aim in aims]
    mixed = [first, *between, last]
    if len(set(mixed)) != MIXED_CHECKPOINTS:
        raise ValueError(f"{spec.name}: the mixed level needs {MIXED_CHECKPOINTS} distinct checkpoints, got {mixed}")
    return {"random": [first], "medium": [medium], "expert": [last], "mixed": mixed}
