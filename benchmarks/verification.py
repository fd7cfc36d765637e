"""Whether a record is as its run wrote it, and whether the installed code would still make it.

Nothing here trusts a number that follows from others: the fingerprint is that of the values, the path that of the
configuration, scores those of the returns, and the run's score that of its evaluations.
"""

import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from omrlbench.config import RunConfig, allowance_of, check_installed, experience_of, resolve
from omrlbench.data.identity import PINNED, dataset_id, pins
from omrlbench.envs.references import normalized_score
from omrlbench.envs.registry import MetaEnvSpec, get_meta_env
from omrlbench.errors import BenchError
from omrlbench.evaluation import PROTOCOL_REVISION, headline_protocol
from omrlbench.record import RunRecord, read_record
from omrlbench.registry import algorithm_class
from omrlbench.suite import suite_cells, suite_names
from omrlbench.training import HEADLINE_PROTOCOL, SCORED_EVALUATIONS, evaluation_steps

TOLERANCE = 1e-9  # between scores that processors of different kinds compute
NUMBERS = ("wall_seconds", "steps_per_second", "peak_memory_bytes")  # of `execution`, that a report shows


@dataclass(frozen=True)
class Results:
    """What lies in a results folder: usable `runs` by cell folder and seed, and why others are not used."""

    runs: dict[Path, dict[int, RunRecord]] = field(default_factory=dict)
    stale: dict[Path, str] = field(default_factory=dict)
    refused: dict[Path, str] = field(default_factory=dict)


def read_results(results_dir: Path) -> Results:
    """All records below `results_dir`; paths in the answer are relative to it. Raises BenchError without a folder."""
    if not results_dir.is_dir():
        raise BenchError(f"there is no results folder {results_dir}, give another by --results-dir")
    results = Results()
    for path in sorted(results_dir.rglob("seed-*.json")):
        place = path.relative_to(results_dir)
        try:
            record = verified_record(path, results_dir)
        except BenchError as error:
            results.refused[place] = str(error).removeprefix(f"{path} ")
            continue
        reason = stale_reason(record)
        if reason:
            results.stale[place] = reason
        else:
            results.runs.setdefault(place.parent, {})[record.config["seed"]] = record
    return results


def verified_record(path: Path, results_dir: Path) -> RunRecord:
    """The record at `path`. Raises BenchError naming it where it is damaged or contradicts itself."""
    record = read_record(path)
    try:
        _check_place(record.config, path.relative_to(results_dir))
        _check_fingerprint(record.config)
        _check_dataset_state(record.config)
        _check_execution(record.execution)
        _check_result(record)
    except BenchError as error:
        raise BenchError(f"{path} is not as its run wrote it: {error}") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{path} is not as its run wrote it: {type(error).__name__}: {error}") from None
    return record


def stale_reason(record: RunRecord) -> str | None:
    """Why the installed code would not make the configuration of `record`, None if it would.

    It would also where a suite has the cell: what was once left to defaults a suite may ask for by name.
    """
    config = record.config
    asked = ("env", "algo", "level", "budget", "preset", "behavior", "eval_split")
    values = config["training"] | config["algorithm"]
    overrides = [f"{key}={_text(values[key])}" for key, source in record.sources.items() if source == "--set"]
    try:
        then, now = RunConfig.from_dict(config), _resolved(*(config[key] for key in asked), *sorted(overrides))
        if now.fingerprint == config["fingerprint"] or config["fingerprint"] in _promised():
            return None
        check_installed(then)
    except BenchError as error:
        return str(error)
    return ", ".join(_differences(then, now)) or "another fingerprint"


@cache
def _promised() -> set[str]:
    """The fingerprints of the cells of all suites."""
    return {config.fingerprint for name in suite_names() for _, config in suite_cells(name)}


def _differences(then: RunConfig, now: RunConfig) -> list[str]:
    old, new = (config.to_dict()["training"] | config.to_dict()["algorithm"] for config in (then, now))
    return [f"{key}={old[key]}, installed has {new[key]}" for key in new if old[key] != new[key]]


@cache
def _resolved(env: str, algo: str, level: str, budget: str, preset: str, behavior: str, split: str, *sets: str):
    return resolve(
        env, algo, level=level, budget=budget, preset=preset, behavior=behavior, eval_split=split, overrides=sets
    )


def _text(value: Any) -> str:
    """As `--set` takes it."""
    return ",".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BenchError(otherwise)


def _check_place(config: dict[str, Any], place: Path) -> None:
    cell = f"{config['budget']}-{config['fingerprint'][:8]}"
    right = Path(config["env"], config["level"], config["algo"], cell, f"seed-{config['seed']}.json")
    _require(place == right, f"its config belongs at {right}")


def _check_fingerprint(config: dict[str, Any]) -> None:
    """Where it can be told: a field or default of another revision of the method is unknown here."""
    try:
        method = algorithm_class(config["algo"])
    except BenchError:
        return
    if method.revision != config["revisions"]["algorithm"]:
        return
    _require(allowance_of(config) == method.allowance, f"its method's allowance is {method.allowance}")
    _require(experience_of(config) == method.experience, f"its method's experience is {method.experience}")
    _require(RunConfig.from_dict(config).fingerprint == config["fingerprint"], "its config has another fingerprint")


def _check_dataset_state(config: dict[str, Any]) -> None:
    spec, dataset = _installed_env(config), config["dataset"]
    pin = pins().get(dataset_id(spec, config["level"], config["behavior"])) if spec else None
    if pin and pin["recipe"] == dataset["recipe"]:
        pinned = pin["content"] == dataset["content"]
        _require((dataset["state"] == PINNED) == pinned, f"its dataset is not {dataset['state']}")


def _check_execution(execution: dict[str, Any]) -> None:
    for name in NUMBERS:
        _require(math.isfinite(execution[name]), f"its {name} is {execution[name]}")
    _require({"git", "versions", "cpu"} <= execution.keys(), "its execution is incomplete")


def _check_result(record: RunRecord) -> None:
    config, result, training = record.config, record.result, record.config["training"]
    spec = _installed_env(config)
    steps = evaluation_steps(training["steps"], training["eval_interval"])
    headline = _headline(config)
    final = [e for e in result["evaluations"] if e["protocol"] == headline]
    curve_steps, final_steps = [[e["step"] for e in part] for part in (result["curve"], final)]
    _check_interaction(record)
    if record.status == "finished":
        complete = curve_steps == steps and final_steps == steps[-SCORED_EVALUATIONS:]
        _require(complete, "points of its curve or final evaluations are missing or surplus")
        score = sum(e["score"] for e in final) / len(final)
    else:
        _require(curve_steps == steps[: len(curve_steps)], "points of its curve are missing or surplus")
        score = min(0.0, result["curve"][-1]["score"] if result["curve"] else 0.0)
    _require(_close(result["score"], score), f"its score is {result['score']}, its evaluations give {score}")
    for evaluation in result["curve"]:
        _check_evaluation(evaluation, spec, evaluation["split"], training["eval_episodes"])
    for evaluation in result["evaluations"]:
        scored = evaluation["protocol"] == headline
        episodes = training["final_eval_episodes"] if scored else len(evaluation["returns"][0])
        _check_evaluation(evaluation, spec, config["eval_split"], episodes)


def _check_interaction(record: RunRecord) -> None:
    """No episode is longer than the horizon or has no transition; a finished run collected what its config asks for."""
    config, interaction = record.config, record.result.get("interaction")
    if interaction is None:
        silent = record.status == "finished" and _headline(config) != HEADLINE_PROTOCOL
        _require(not silent, "it does not tell what was collected")
        return
    spec, episodes, transitions = _installed_env(config), interaction["episodes"], interaction["transitions"]
    longest = spec.horizon if spec else math.inf
    possible = episodes <= transitions <= episodes * longest
    _require(possible, f"it has {transitions} transitions of {episodes} episodes")
    if spec and record.status == "finished":
        c, steps = config["algorithm"], config["training"]["steps"]
        of_collection = c["prior_episodes"] + c["posterior_episodes"] + c["extra_episodes"]
        visits = math.ceil(steps / c["collection_interval"]) * c["collection_tasks"]
        least = spec.horizon * (len(spec.tasks.splits["train"]) * c["initial_episodes"] + visits * of_collection)
        _require(transitions >= least, f"it collected {transitions} transitions, its config asks for {least} at least")


def _headline(config: dict[str, Any]) -> str:
    """The protocol of the score; of a method that is unknown here, the one of methods that learn from logs."""
    try:
        return headline_protocol(algorithm_class(config["algo"]))
    except BenchError:
        return HEADLINE_PROTOCOL


def _check_evaluation(evaluation: dict[str, Any], spec: MetaEnvSpec | None, split: str, episodes: int) -> None:
    returns = np.array(evaluation["returns"], float)
    where = f"the evaluation at step {evaluation['step']}"
    _require(np.isfinite(returns).all() and math.isfinite(evaluation["score"]), f"{where} is not finite")
    _require(evaluation["split"] == split, f"{where} is of the {evaluation['split']} tasks")
    _require(returns.shape == (len(evaluation["task_ids"]), episodes), f"{where} has returns of shape {returns.shape}")
    if spec:
        _require(evaluation["task_ids"] == list(spec.tasks.splits[split]), f"{where} is of other tasks")
        score = normalized_score(spec.name, split, float(returns.mean()))
        _require(_close(evaluation["score"], score), f"{where} scores {evaluation['score']}, its returns give {score}")


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


@cache
def _known_env(name: str) -> MetaEnvSpec | None:
    try:
        return get_meta_env(name)
    except ValueError:
        return None


def _installed_env(config: dict[str, Any]) -> MetaEnvSpec | None:
    """The meta-environment of `config`, None where this installation has another revision of it or of the protocol."""
    spec, revisions = _known_env(config["env"]), config["revisions"]
    same = spec and (spec.revision, PROTOCOL_REVISION) == (revisions["env"], revisions["protocol"])
    return spec if same else None
