"""The record of a run: one JSON file with what was asked, what came out, and how it was carried out."""

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omrlbench.errors import BenchError, Diverged

SCHEMA_VERSION = 1
STATUSES = ("finished", "diverged")
RESULT_KEYS = ("status", "message", "score", "curve", "evaluations")
OUTPUTS = (
    ":(top,exclude)results",
    ":(top,exclude)BENCHMARKS.md",
)  # of which git does not say that the code has changed
PACKAGES = ("omrl-bench", "torch", "numpy", "gymnasium", "mujoco", "minari")


class Record:
    """What both kinds of record have in common. All values are plain JSON types."""

    def to_json(self) -> str:
        """Raises ValueError if a number is NaN or infinite."""
        return json.dumps({"schema_version": self.schema_version} | asdict(self), indent=1, allow_nan=False) + "\n"


@dataclass(frozen=True)
class RunRecord(Record):
    """One run.

    `config` is complete and equal for equal runs. `result` is equal, bitwise, whenever the same run is
    repeated on one machine. `execution` is about this particular time. docs/protocols.md describes the keys.
    """

    config: dict[str, Any]
    sources: dict[str, str]
    result: dict[str, Any]
    execution: dict[str, Any]
    schema_version: int = SCHEMA_VERSION

    @property
    def status(self) -> str:
        return self.result["status"]

    @property
    def protocol(self) -> str | None:
        """Under which its score was measured, None of a run that diverged before."""
        evaluations = self.result["evaluations"]
        return evaluations[0]["protocol"] if evaluations else None

    def last_evaluation(self, protocol: str) -> dict[str, Any] | None:
        """Of the final parameters under `protocol`, None of a run that has none."""
        found = [evaluation for evaluation in self.result["evaluations"] if evaluation["protocol"] == protocol]
        return found[-1] if found else None

    def final_score(self, protocol: str) -> float | None:
        """Of the final parameters under `protocol`, the floor score of a diverged run; None of one that has none."""
        if self.status == "diverged":
            return self.result["score"]
        found = self.last_evaluation(protocol)
        return found and found["score"]

    @property
    def exit_code(self) -> int:
        return Diverged.exit_code if self.status == "diverged" else 0


@dataclass(frozen=True)
class EvaluationRecord(Record):
    """One later evaluation of a run's final parameters, kept in `evaluations_folder` of the run's record.

    `config` is the run's, `evaluation` what was asked and of which run, `result` an entry as in a run's `evaluations`.
    `execution` is about this particular time. docs/protocols.md describes the keys.
    """

    config: dict[str, Any]
    evaluation: dict[str, Any]
    result: dict[str, Any]
    execution: dict[str, Any]
    schema_version: int = SCHEMA_VERSION


def default_results_dir() -> Path:
    return Path(os.environ.get("OMRLBENCH_RESULTS_DIR", "results/local"))


def evaluations_folder(record: Path) -> Path:
    """Where later evaluations of the run with this record are kept, one file each."""
    return record.with_suffix(".evaluations")


def write_record(path: Path, record: Record) -> None:
    write_atomic(path, record.to_json().encode())


def read_record(path: Path) -> RunRecord:
    """The record at `path`. Raises BenchError naming the file and what is wrong with it."""
    return RunRecord(**_read(path, "run record", RunRecord))


def read_evaluation(path: Path) -> EvaluationRecord:
    """The record of a later evaluation at `path`. Raises BenchError naming the file and what is wrong with it."""
    return EvaluationRecord(**_read(path, "record of an evaluation", EvaluationRecord))


def _read(path: Path, kind: str, form: type[Record]) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise BenchError(f"there is no {kind} {path}") from None
    except OSError as error:
        raise BenchError(f"cannot read {path} as a {kind}: {error.strerror}") from None
    except ValueError as error:
        raise BenchError(f"{path} is not a {kind}: {error}") from None
    problem = _problem(table, form)
    if problem:
        raise BenchError(f"{path} is not a {kind} of schema {SCHEMA_VERSION}: {problem}")
    return table


def _refuse_constant(text: str) -> None:
    raise ValueError(f"it holds {text}")


def _problem(table: Any, form: type[Record]) -> str | None:
    """What keeps `table` from being a record of this form, None if nothing does."""
    if not isinstance(table, dict):
        return "it is not a JSON object"
    if table.get("schema_version") != SCHEMA_VERSION:
        return f"its schema version is {table.get('schema_version')}"
    sections = {field.name for field in fields(form)}
    if table.keys() != sections:
        return f"missing or unknown sections: {', '.join(sorted(table.keys() ^ sections))}"
    for section in sorted(sections - {"schema_version"}):
        if not isinstance(table[section], dict):
            return f"its {section} is not a JSON object"
    return _problem_of_result(table["result"]) if form is RunRecord else None


def _problem_of_result(result: dict[str, Any]) -> str | None:
    missing = [key for key in RESULT_KEYS if key not in result]
    if missing:
        return f"its result has no {missing[0]}"
    if result["status"] not in STATUSES:
        return f"its status is {result['status']!r}"
    if not isinstance(result["score"], int | float):
        return f"its score is {result['score']!r}, not a number"
    for key in ("curve", "evaluations"):
        if not isinstance(result[key], list):
            return f"its {key} is not a JSON array"
    return None


def write_atomic(path: Path, content: bytes) -> None:
    """Write `path` whole or not at all, on disk when this returns. Raises OSError that names `path`."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def environment_facts(argv: Sequence[str] | None, device: str) -> dict[str, Any]:
    """What ran and where: command line, versions, hardware, and peak memory so far in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "argv": None if argv is None else list(argv),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "device": _device_name(device),
        "peak_memory_bytes": peak if sys.platform == "darwin" else peak * 1024,
    }


def git_state() -> dict[str, Any] | None:
    """Commit of this package's clone and whether it has, or may have, changes outside `OUTPUTS`; None outside one."""
    here = Path(__file__)
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    commit = _git(here.parent, "rev-parse", "HEAD")
    status = _git(here.parent, "status", "--porcelain", "--", ":/", *OUTPUTS)
    return None if commit is None else {"commit": commit, "dirty": status != ""}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _device_name(device: str) -> str:
    import torch

    return device if device == "cpu" else f"{device}: {torch.cuda.get_device_name(device)}"
