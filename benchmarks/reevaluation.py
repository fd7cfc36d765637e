"""Evaluating a recorded run's final parameters again: another protocol, more episodes, contexts of another level."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omrlbench.algorithms.algorithm import LAST_STAGE, Algorithm
from omrlbench.config import EVAL_SPLITS, RunConfig
from omrlbench.data.dataset import MultiTaskDataset
from omrlbench.data.identity import SHIFTED
from omrlbench.envs.registry import LEVELS
from omrlbench.errors import BenchError, unknown
from omrlbench.evaluation import PROTOCOLS, evaluate
from omrlbench.process import check_device, deterministic
from omrlbench.record import (
    EvaluationRecord,
    RunRecord,
    environment_facts,
    evaluations_folder,
    git_state,
    read_record,
    write_record,
)
from omrlbench.registry import meta_env
from omrlbench.repetition import recorded_config
from omrlbench.run_data import Known, contexts_of, data_identity, load_own
from omrlbench.training import as_plain, evaluated_tasks, make_algorithm
from omrlbench.weights import restore_weights, stored_scaling


@dataclass(frozen=True)
class Request:
    """What is asked of a run; None is what the run itself did."""

    protocol: str | None = None  # of the run: that of its score
    episodes: int | None = None  # per task
    split: str | None = None
    level: str | None = None  # of the logs that contexts are drawn from


def evaluate_again(
    path: Path,
    request: Request,
    *,
    data_dir: str | Path | None = None,
    argv: Sequence[str] | None = None,
    on_data_progress: Callable[[str, int, int], None] | None = None,
    on_message: Callable[[str], None] = lambda message: None,
    known: Known | None = None,
) -> tuple[Path, EvaluationRecord]:
    """Evaluate the run with the record `path`; the evaluation's own record and where it was written.

    Contexts and starts are those of the run's last evaluation. Datasets in `known` are not read again. Raises
    BenchError, one line, where the run has no weights, where this installation would compute something else, or where
    the method lacks the protocol, and Diverged if an action is not finite.
    """
    git, (record, config) = git_state(), finished_run(path)
    if record.protocol is None:
        raise BenchError(f"{path} holds no evaluation that could be repeated")
    request = replace(request, protocol=request.protocol or record.protocol)
    split, level = request.split or config.eval_split, request.level or config.level
    _check(config, request, split, level)
    episodes = request.episodes or config.training.final_eval_episodes
    with deterministic():
        arguments = (data_dir, on_data_progress, on_message, known)
        own = load_own(config, *arguments, scaling=stored_scaling(path))
        contexts = _contexts(config, request.protocol, level, own, *arguments)
        algorithm = trained(config, own, path)
        index, size = last_evaluation(record), config.algorithm.context_size
        try:
            measured = evaluate(algorithm, contexts, split, episodes, config.seed, index, size, request.protocol)
        except NotImplementedError as error:
            raise BenchError(f"{config.algo} has no {request.protocol} evaluation: {error}") from None
    logs = None if request.protocol == "online" else {"level": level} | data_identity(contexts)
    name = "-".join([request.protocol, *([level] if logs else []), split, str(episodes)])
    evaluation = {
        "protocol": request.protocol,
        "split": split,
        "episodes": episodes,
        "index": index,
        "contexts": logs,
        "record": path.name,
        "weights": _sha256(path.with_suffix(".safetensors")),
    }
    result = {"step": config.training.steps, "protocol": request.protocol} | as_plain(measured)
    target = evaluations_folder(path) / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    execution = environment_facts(argv, config.training.device) | {"git": git}
    evaluated = EvaluationRecord(record.config, evaluation, result, execution)
    write_record(target, evaluated)
    return target, evaluated


def finished_run(path: Path) -> tuple[RunRecord, RunConfig]:
    """The record `path` and its configuration. Raises BenchError where it has no final parameters that run here."""
    record = read_record(path)
    config = recorded_config(path, record)
    if record.status != "finished":
        raise BenchError(f"{path} is of a run that {record.status}: it has no final parameters")
    check_device(config.training.device)
    return record, config


def trained(config: RunConfig, own: MultiTaskDataset, path: Path) -> Algorithm:
    """The method of the run with the record `path`, which learned from `own`, with its final parameters."""
    algorithm = make_algorithm(config, own)
    algorithm.stage = LAST_STAGE
    restore_weights(algorithm, path)
    return algorithm


def last_evaluation(record: RunRecord) -> int:
    """The number of the run's last evaluation, which contexts and starts derive from."""
    return len(record.result["curve"]) - 1


def _check(config: RunConfig, request: Request, split: str, level: str) -> None:
    for kind, given, allowed in (
        ("protocol", request.protocol, PROTOCOLS),
        ("evaluation split", split, EVAL_SPLITS),
        ("level", level, LEVELS),
    ):
        if given not in allowed:
            raise unknown(kind, given, allowed)
    tasks = meta_env(config.env).tasks
    if config.allowance == "dataset" and not set(tasks.splits[split]) <= set(evaluated_tasks(config, tasks)):
        raise BenchError(f"{config.algo} did not learn from the {split} tasks: give --eval-split {config.eval_split}")
    if request.protocol == "online" and request.level is not None:
        raise BenchError("online contexts are collected by the method, they have no --context-level")


def _contexts(config: RunConfig, protocol: str, level: str, own: MultiTaskDataset, *arguments: Any) -> MultiTaskDataset:
    if protocol == "offline_shifted":
        return contexts_of(config, level + SHIFTED, own, *arguments)
    return own if level == config.level else contexts_of(config, level, own, *arguments)


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
