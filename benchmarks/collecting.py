"""Records of a scratch results folder, verified one by one, copied to where results are kept."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omrlbench.errors import BenchError
from omrlbench.record import RunRecord, evaluations_folder, read_record, write_atomic
from omrlbench.training import KEPT
from omrlbench.verification import stale_reason, verified_record

COLLECTED, THERE, REFUSED = "collected", "there already", "refused"


@dataclass(frozen=True)
class Outcome:
    """What became of one record, `place` relative to the folder; `remark` is why it was refused, or is stale."""

    place: Path
    state: str
    remark: str | None = None


def collect(source: Path, target: Path) -> Iterator[Outcome]:
    """Copy every record below `source`, and what its run and later evaluations left beside it, to below `target`.

    One that contradicts itself is refused, and so is one with other results than a record that `target` has; equal ones
    stay as they are. Raises BenchError where `source` is no folder, or the same as `target`.
    """
    if not source.is_dir():
        raise BenchError(f"there is no results folder {source}")
    if source.resolve() == target.resolve():
        raise BenchError(f"{source} is where results are kept: give the folder that the runs wrote to")
    for path in sorted(source.rglob("seed-*.json")):
        place = path.relative_to(source)
        try:
            record = verified_record(path, source)
            state = _copy(record, path, target / place)
        except BenchError as error:
            yield Outcome(place, REFUSED, str(error).removeprefix(f"{path} "))
        else:
            yield Outcome(place, state, stale_reason(record))


def _copy(record: RunRecord, path: Path, target: Path) -> str:
    """The record goes last: whatever has one is complete."""
    if target.exists():
        there = read_record(target)
        if (there.config, there.result) != (record.config, record.result):
            raise BenchError(f"has other results than {target}: delete the wrong one")
        return THERE
    target.parent.mkdir(parents=True, exist_ok=True)
    for file in map(path.with_suffix, KEPT):
        if file.exists():
            write_atomic(target.with_suffix(file.suffix), file.read_bytes())
    if evaluations_folder(path).is_dir():
        shutil.copytree(evaluations_folder(path), evaluations_folder(target), dirs_exist_ok=True)
    write_atomic(target, path.read_bytes())
    return COLLECTED
