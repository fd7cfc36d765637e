"""What Slurm has of the cells of a results folder: which job is to run each, and whether that one waits or runs."""

import json
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from omrlbench.errors import BenchError
from omrlbench.record import write_atomic
from omrlbench.sweep import PENDING, RUNNING, Cell

FOLDER = "slurm"  # in the results folder: logs, what jobs are to do, and a file per submission that names its cells
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "SUSPENDED")


def note_jobs(results_dir: Path, cells: Sequence[Cell], jobs: Sequence[str]) -> None:
    """Write down which job runs which cell."""
    table = {_name(cell): job for cell, job in zip(cells, jobs, strict=True)}
    name = jobs[0].split("_")[0]
    write_atomic(results_dir / FOLDER / f"{name}.json", json.dumps(table, indent=1).encode())


def queued_jobs(results_dir: Path, cells: Iterable[Cell]) -> dict[int, str]:
    """The jobs that Slurm still has, by id of their cells, whose states become RUNNING or PENDING."""
    if not (results_dir / FOLDER).is_dir() or shutil.which("squeue") is None:
        return {}
    states, noted = job_states(), {}
    for path in (results_dir / FOLDER).glob("*.json"):
        noted |= {place: job for place, job in json.loads(path.read_text()).items() if job in states}
    found = {}
    for cell in cells:
        job = noted.get(_name(cell))
        if job and not cell.ended:
            cell.state = PENDING if states[job] in WAITING else RUNNING
            found[id(cell)] = job
    return found


def _name(cell: Cell) -> str:
    """The same wherever the results folder is and however it is written."""
    return str(cell.config.record_path(""))


def job_states() -> dict[str, str]:
    """The state of every job of this person that Slurm has not forgotten, by id: "12", or "12_3" in an array."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise BenchError(f"Slurm does not answer: {said.strip().splitlines()[-1]}") from None
    return dict(line.split() for line in answer.stdout.splitlines())
