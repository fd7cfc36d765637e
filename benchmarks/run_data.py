"""The data of a run: what its method learns from, and the contexts of each protocol."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from omrlbench.config import RunConfig
from omrlbench.data.dataset import MultiTaskDataset
from omrlbench.data.identity import SHIFTED, can_shift, make_command
from omrlbench.data.store import load_dataset, recipe_fingerprint
from omrlbench.errors import BenchError
from omrlbench.registry import kind, meta_env

Known = dict[tuple[str, str, str], MultiTaskDataset]  # by meta-environment, level and kind of behaviour policy


def load_logs(config: RunConfig, *arguments: Any) -> dict[str, MultiTaskDataset]:
    """By protocol, the data that contexts are drawn from, as the method sees them; those of "offline" it learns from.

    `arguments` are those of `checked_dataset`. "offline_shifted" is missing where a split has but one task.
    """
    own = load_own(config, *arguments)
    shifted = contexts_of(config, config.level + SHIFTED, own, *arguments) if can_shift(own.spec.tasks) else None
    return {"offline": own, "online": own} | ({} if shifted is None else {"offline_shifted": shifted})


def load_own(config: RunConfig, *arguments: Any, scaling: tuple[Tensor, Tensor] | None = None) -> MultiTaskDataset:
    """The data that the run learns from, as the method sees them; `scaling` as in `MultiTaskDataset.for_learning`.

    A method that learns from its interaction alone sees observations as they are: nothing of logs is known to it.
    """
    logs = checked_dataset(config, config.level, *arguments)
    _, experience = kind(config.algo)
    return on_device(logs if experience == "interaction" else logs.for_learning(scaling), config.training.device)


def contexts_of(config: RunConfig, level: str, own: MultiTaskDataset, *arguments: Any) -> MultiTaskDataset:
    """The data of `level` as a method sees them that learns from `own`."""
    contexts = checked_dataset(config, level, *arguments)
    return on_device(contexts, config.training.device).as_contexts_for(own)


def checked_dataset(
    config: RunConfig,
    level: str,
    data_dir: str | Path | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
    on_message: Callable[[str], None] = lambda message: None,
    known: Known | None = None,
) -> MultiTaskDataset:
    """The run's dataset of `level`, read unless it is in `known`, which takes it up.

    Raises BenchError if it was made by another recipe than this version's.
    """
    known, key = {} if known is None else known, (config.env, level, config.behavior)
    if key not in known:
        known[key] = load_dataset(
            config.env,
            level,
            behavior=config.behavior,
            data_dir=data_dir,
            on_progress=on_progress,
            on_message=on_message,
        )
    dataset = known[key]
    spec = meta_env(config.env)
    wanted = config.dataset if level == config.level else recipe_fingerprint(spec, level, config.behavior)
    if dataset.metadata["recipe_sha256"] != wanted:
        command = make_command(spec, level, config.behavior, data_dir)
        reason = "made by another recipe than this version's"
        raise BenchError(f"{dataset.metadata['id']}: {reason}; make it again: {command}")
    return dataset


def on_device(dataset: MultiTaskDataset, device: str) -> MultiTaskDataset:
    values = {f.name: getattr(dataset, f.name) for f in fields(dataset)}
    moved = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
    rewards = {kind: reward.to(device) for kind, reward in dataset.rewards.items()}
    return replace(dataset, rewards=rewards, **moved)


def data_identity(dataset: MultiTaskDataset) -> dict[str, str]:
    metadata = dataset.metadata
    fingerprints = {"recipe": metadata["recipe_sha256"], "content": metadata["content_sha256"]}
    return fingerprints | {"state": metadata["state"]}
