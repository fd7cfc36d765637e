"""Cells as one array job of Slurm, which goes on without the sweep: that only looks at what the jobs leave behind.

A job that is pre-empted or reaches its time limit saves the state of its cell and is requeued. All nodes see the
results folder under one path.
"""

import io
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from types import FrameType

from omrlbench.config import RunConfig
from omrlbench.errors import BenchError
from omrlbench.launchers.queue import FOLDER, note_jobs, queued_jobs
from omrlbench.launchers.worker import News, Work
from omrlbench.sweep import BUSY_WAIT, ELSEWHERE, FAILED, LOOK, QUEUED, RUNNING, Cell

try:
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError, JobPaths, pickle_load
except ImportError:
    raise BenchError("submitit is not installed: pip install 'omrl-bench[slurm]'") from None

POLL = 5.0  # seconds between two questions to Slurm
PATIENCE = 30.0  # seconds in which the files of a job that has ended appear on a network file system
MINUTES = 24 * 60  # limit of a job where no other is given
SAVING = 90  # seconds before the limit, at most, at which a cell is told to save
TIMEOUTS = 1000  # of one job, after each of which it is requeued
WAKE = signal.SIGUSR2  # by which a job is told that its time is over


class SlurmCell(submitit.helpers.Checkpointable):
    """What a job does: run one cell. As a submission that follows one that was cut short it goes on from there."""

    def __init__(self, work: Work, config: RunConfig) -> None:
        self.work, self.config = work, config

    def __call__(self) -> News:
        requeue = signal.getsignal(WAKE)
        asked = training = False

        def on_wake(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            asked = True
            if training:
                os.kill(os.getpid(), signal.SIGTERM)  # upon which it saves
            else:
                requeue(number, frame)

        def tell(news: News) -> None:
            nonlocal training
            training = True

        signal.signal(WAKE, on_wake)
        while (news := self.work.run(self.config, tell))["state"] == ELSEWHERE:
            time.sleep(BUSY_WAIT)
        if news["state"] == QUEUED:
            while not asked:  # whoever sent SIGTERM alone requeues the job, or ends it, by itself
                time.sleep(LOOK)
            requeue(WAKE, None)
        return news


class SlurmLauncher:
    """Every cell takes `cpus` and `gpus` of a node of `partition`, for at most `time` minutes until it is requeued.

    At most `workers` cells of a submission run at a time, by default as many as Slurm gives places to. A cell that a
    job is to run already is not submitted again.
    """

    def __init__(
        self,
        work: Work,
        *,
        cpus: float,
        gpus: float,
        partition: str | None = None,
        time: int = MINUTES,
        workers: int | None = None,
    ) -> None:
        for name, count in (("cpus", cpus), ("gpus", gpus)):
            if count != int(count):
                raise BenchError(f"--{name} is a whole number with Slurm, not {count:g}")
        self.work, self.workers, self.folder = work, workers, work.results_dir / FOLDER
        self.parameters = {
            "name": "bench",
            "timeout_min": time,
            "cpus_per_task": int(cpus),
            "gpus_per_node": int(gpus) or None,
            "slurm_partition": partition,
            "slurm_signal_delay_s": min(SAVING, 30 * time),
            "slurm_additional_parameters": {"requeue": True},
        }
        self.new: list[Cell] = []  # to be submitted
        self.under_way: list[Cell] = []
        self.jobs: dict[int, str] = {}  # by id of the cell
        self.began: dict[int, float] = {}
        self.gone: dict[int, float] = {}  # since when Slurm does not have the job any more
        self.asked = 0.0

    def __enter__(self) -> "SlurmLauncher":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    @property
    def has_room(self) -> bool:
        return True

    def start(self, cell: Cell) -> None:
        self.new.append(cell)

    def listen(self) -> Iterator[Cell]:
        if self.new:
            self._submit()
        time.sleep(LOOK)
        if time.monotonic() - self.asked < POLL:
            return
        queued = queued_jobs(self.work.results_dir, self.under_way)
        self.asked = time.monotonic()
        for cell in list(self.under_way):
            if id(cell) in queued:
                self.gone.pop(id(cell), None)
                if cell.state == RUNNING:
                    cell.seconds = self.asked - self.began.setdefault(id(cell), self.asked)
                    cell.look_at_curve()
            elif news := self._end(cell):
                cell.take_up(news)
                self.under_way.remove(cell)
                yield cell

    def _submit(self) -> None:
        """One array of the new cells, but for those that a job is to run already."""
        self.jobs |= queued_jobs(self.work.results_dir, self.new)
        cells = [cell for cell in self.new if id(cell) not in self.jobs]
        if cells:
            try:
                executor = submitit.AutoExecutor(self.folder / "%j", cluster="slurm", slurm_max_num_timeout=TIMEOUTS)
                executor.update_parameters(**self.parameters, slurm_array_parallelism=self.workers or len(cells))
                with redirect_stderr(io.StringIO()), executor.batch():  # the error says it again
                    jobs = [executor.submit(SlurmCell(self.work, cell.config)) for cell in cells]
            except (RuntimeError, OSError, subprocess.SubprocessError, FailedJobError, FailedSubmissionError) as error:
                raise BenchError(f"Slurm takes no job: {_said(error)}") from None
            ids = [job.job_id for job in jobs]
            note_jobs(self.work.results_dir, cells, ids)
            self.jobs |= {id(cell): job for cell, job in zip(cells, ids, strict=True)}
        self.under_way += self.new
        self.new = []

    def _end(self, cell: Cell) -> News | None:
        """How a job ended that Slurm does not have any more, None while that cannot be told yet."""
        paths = JobPaths(self.folder / "%j", self.jobs[id(cell)])
        if paths.result_pickle.exists():
            outcome, result = pickle_load(paths.result_pickle)
            lines = str(result).strip().splitlines()
            return result if outcome == "success" else {"state": FAILED, "reason": lines[-1]}
        if time.monotonic() - self.gone.setdefault(id(cell), time.monotonic()) < PATIENCE:
            return None
        return {"state": FAILED, "reason": f"its job {self.jobs[id(cell)]} was cancelled or killed, see {paths.stderr}"}

    def stop(self) -> str:
        return "left; the jobs go on, bench status says how far they are"


def _said(error: Exception) -> str:
    """The last line that Slurm's command had to say, or that of the error."""
    said = getattr(error, "stderr", None) or str(error)
    return (said.decode() if isinstance(said, bytes) else said).strip().splitlines()[-1]
