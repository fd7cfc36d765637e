"""The only training loop: exact resume, validation curve, test evaluations at the end, one record per run."""

import io
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omrlbench.algorithms.algorithm import LAST_STAGE, Algorithm, Problem
from omrlbench.config import RunConfig
from omrlbench.data.dataset import MetaBatchSampler, MultiTaskDataset
from omrlbench.diagnostics import embedding_diagnostics
from omrlbench.envs.tasks import TaskSet
from omrlbench.errors import BenchError, Diverged, Interrupted
from omrlbench.evaluation import (
    PROTOCOLS,
    Evaluation,
    Stream,
    embed_tasks,
    evaluate,
    generator,
    headline_protocol,
    seed_sequence,
)
from omrlbench.interaction import CollectingSampler, ReplayBuffer
from omrlbench.process import StopSignal, check_device, deterministic, locked
from omrlbench.record import (
    RunRecord,
    default_results_dir,
    environment_facts,
    evaluations_folder,
    git_state,
    read_record,
    write_atomic,
    write_record,
)
from omrlbench.registry import algorithm_class, meta_env
from omrlbench.run_data import data_identity, load_logs
from omrlbench.sinks import Sink, open_sinks
from omrlbench.weights import stored_weights

SCORED_EVALUATIONS = 3  # the score of a run is the mean of this many last evaluations
HEADLINE_PROTOCOL = "offline"  # of methods that learn from logs
CHECK_INTERVAL = 50  # updates between two looks at the losses
LOSS_LIMIT = 1e8
KEPT = (".npz", ".safetensors", ".csv", ".png")  # suffixes of what may lie beside a record
BESIDE_RECORD = (*KEPT, ".checkpoint")
PICTURE_LIMIT = 500_000  # bytes of the picture's arrays
CONTEXTS_PER_TASK = 10  # embedded for the picture of the task space


@dataclass(frozen=True)
class Progress:
    """Where a run is. `metrics` are means since the last evaluation; `score` is the last one of the curve."""

    stage: str | None  # that `step` and `steps` are of; None for the last
    step: int
    steps: int
    metrics: dict[str, float]
    score: float | None
    steps_per_second: float


def run(
    config: RunConfig,
    *,
    results_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    argv: Sequence[str] | None = None,
    overwrite: bool = False,
    sinks: Sequence[str] = (),
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_message: Callable[[str], None] = lambda message: None,
    on_data_progress: Callable[[str, int, int], None] | None = None,
) -> RunRecord:
    """Train, evaluate and write the record; go on where an interrupted run of the same configuration stopped.

    A run with a record is not repeated unless `overwrite` is set, and then keeps the old record until it has the
    new one; it too goes on where it was interrupted. `sinks` name those of `omrlbench.sinks` that get the curve besides
    the CSV file. `on_message` is told in one line when a run is resumed, has a record already, or diverged, and when
    another process makes the dataset; `on_data_progress` gets (what, done, total) while the dataset is made. Raises
    RunBusy if another process has this run, Interrupted after SIGINT or SIGTERM, and OSError or DatasetError if a file
    cannot be written.
    """
    path = config.record_path(results_dir or default_results_dir())
    check_device(config.training.device)
    opened = open_sinks(sinks, config, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        remove_stale_checkpoint(path)
        if path.exists() and not overwrite:
            record = read_record(path)
            finished = record.status == "finished"
            on_message(f"already {'finished' if finished else f'run, status {record.status}'}: {path}")
            return record
        logs = load_logs(config, data_dir, on_data_progress, on_message)
        with deterministic(), StopSignal() as stop, closing_all(opened):
            training = TrainingRun(config, logs, path, opened)
            if training.resume():
                on_message(f"resuming at {training.place()}")
            record = training.complete(stop, on_progress, argv)
    if record.status == "diverged":
        on_message(f"diverged: {record.result['message']}")
    return record


@contextmanager
def closing_all(sinks: Sequence[Sink]) -> Iterator[None]:
    try:
        yield
    finally:
        for sink in sinks:
            sink.close()


def remove_stale_checkpoint(path: Path) -> None:
    """Remove what a run left that died after its record was written; a later checkpoint is of its repetition."""
    checkpoint = path.with_suffix(".checkpoint")
    if path.exists() and checkpoint.exists() and checkpoint.stat().st_mtime_ns <= path.stat().st_mtime_ns:
        checkpoint.unlink()


class MetricMeans:
    """Means of scalar metrics since the last `reset`; reading or saving them in between changes nothing."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.totals: dict[str, Tensor | float] = {}
        self.counts: dict[str, int] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            self.totals[name] = self.totals.get(name, 0.0) + value.double()
            self.counts[name] = self.counts.get(name, 0) + 1

    def values(self) -> dict[str, float]:
        return {name: float(total) / self.counts[name] for name, total in self.totals.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"totals": {name: float(total) for name, total in self.totals.items()}, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.totals, self.counts = state["totals"], state["counts"]


def check_losses(means: dict[str, float], place: str) -> None:
    """Raise Diverged, naming the `place`, if a mean loss is not finite or has exploded."""
    for name, value in means.items():
        if name.endswith("loss") and not abs(value) < LOSS_LIMIT:
            raise Diverged(f"{name} is {value:.3g} at {place}")


class TrainingRun:
    """The state of one run between its first update and its record."""

    def __init__(self, config: RunConfig, logs: dict[str, MultiTaskDataset], path: Path, sinks: Sequence[Sink]):
        dataset = logs[HEADLINE_PROTOCOL]
        self.sinks = sinks
        self.config, self.logs, self.dataset, self.path = config, logs, dataset, path
        self.checkpoint = path.with_suffix(".checkpoint")
        self.identity = {
            "fingerprint": config.fingerprint,
            "seed": config.seed,
            "content": dataset.metadata["content_sha256"],
        }
        self.algorithm = make_algorithm(config, dataset)
        self.headline = headline_protocol(type(self.algorithm))
        self.stages = self.algorithm.stages | {LAST_STAGE: config.training.steps}
        self.batches = generator(config.seed, Stream.BATCHES)
        self.means = MetricMeans()
        self.begin_stage(next(iter(self.stages)))
        self.curve: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.sittings: list[dict[str, Any]] = []
        self.began, self.began_processor, self.first_update = time.monotonic(), time.process_time(), 0
        self.started, self.git = datetime.now(UTC).isoformat(timespec="seconds"), git_state()

    def resume(self) -> bool:
        """Take up the saved state, if there is one. Raises BenchError if it is not of this run."""
        if not self.checkpoint.exists():
            return False
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:
            raise BenchError(f"cannot read {self.checkpoint}, delete it to start again") from error
        if state["identity"] != self.identity:
            raise BenchError(f"{self.checkpoint} is of another config, revision or dataset; delete it to start again")
        self.begin_stage(state["stage"])
        try:
            self.algorithm.load_state_dict(state["algorithm"])
        except (ValueError, RuntimeError) as error:  # RuntimeError from torch, for tensors of other shapes
            reason = "is of another version of the method; delete it to start again"
            raise BenchError(f"{self.checkpoint} {reason}") from error
        self.batches.bit_generator.state = state["batches"]
        torch.set_rng_state(state["torch"])
        if isinstance(self.sampler, CollectingSampler):
            self.sampler.load_state_dict(state["collected"])
        self.means.load_state_dict(state["means"])
        self.step = state["step"]
        self.first_update = self.updates
        self.curve, self.evaluations, self.sittings = state["curve"], state["evaluations"], state["sittings"]
        return True

    def save(self) -> None:
        state = {
            "identity": self.identity,
            "algorithm": self.algorithm.state_dict(),
            "batches": self.batches.bit_generator.state,
            "torch": torch.get_rng_state(),
            "means": self.means.state_dict(),
            "stage": self.stage,
            "step": self.step,
            "curve": self.curve,
            "evaluations": self.evaluations,
            "sittings": self.all_sittings(),
        }
        if isinstance(self.sampler, CollectingSampler):
            state["collected"] = self.sampler.state_dict()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.checkpoint, buffer.getvalue())

    def complete(
        self, stop: StopSignal, on_progress: Callable[[Progress], None], argv: Sequence[str] | None
    ) -> RunRecord:
        """Train to the end and leave the record in place of the checkpoint and of what an earlier run left."""
        try:
            self.train(stop, on_progress)
            result, artefacts = self.finished_result(), self.write_artefacts()
        except Diverged as error:
            result, artefacts = self.diverged_result(error), []
        if self.curve:
            artefacts.append(self.path.with_suffix(".csv").name)
        dataset = data_identity(self.dataset)
        record = RunRecord(
            config=self.config.to_dict() | {"dataset": dataset},
            sources=self.config.sources,
            result=result,
            execution=environment_facts(argv, self.config.training.device)
            | self.over_all_sittings()
            | {"parameters": self.algorithm.learned_parameters, "artefacts": artefacts},
        )
        write_record(self.path, record)
        for file in map(self.path.with_suffix, BESIDE_RECORD):
            if file.name not in artefacts:
                file.unlink(missing_ok=True)
        shutil.rmtree(evaluations_folder(self.path), ignore_errors=True)
        return record

    def begin_stage(self, stage: str) -> None:
        self.stage = self.algorithm.stage = stage
        self.step, self.steps = 0, self.stages[stage]
        self.sampler = make_sampler(self.config, self.dataset, self.algorithm, self.batches)

    @property
    def updates(self) -> int:
        """So far, over all stages."""
        names = list(self.stages)
        return sum(self.stages[name] for name in names[: names.index(self.stage)]) + self.step

    def train(self, stop: StopSignal, on_progress: Callable[[Progress], None]) -> None:
        for stage in list(self.stages)[list(self.stages).index(self.stage) :]:
            if stage != self.stage:
                self.begin_stage(stage)
            self.train_stage(stop, on_progress)

    def train_stage(self, stop: StopSignal, on_progress: Callable[[Progress], None]) -> None:
        training = self.config.training
        while self.step < self.steps:
            if training.learning_rate_decay == "linear":
                self.algorithm.scale_learning_rates(1 - self.step / self.steps)
            self.means.add(self.algorithm.update(self.sampler.sample()))
            self.step += 1
            ended = self.step == self.steps
            interval_ended = self.step % training.eval_interval == 0 or ended
            if interval_ended or self.step % CHECK_INTERVAL == 0:
                means = self.means.values()
                check_losses(means, self.place())
                if interval_ended and self.stage == LAST_STAGE:
                    self.evaluate(means)
                elif interval_ended:
                    self.means.reset()
                on_progress(self.progress(means))
            if stop.requested:
                self.save()
                raise Interrupted(f"stopped at {self.place()}; the same command resumes")
            if self.step % training.checkpoint_interval == 0 or ended:
                self.save()

    def place(self) -> str:
        stage = "" if self.stage == LAST_STAGE else f" of stage {self.stage}"
        return f"step {self.step} of {self.steps}{stage}"

    def evaluate(self, means: dict[str, float]) -> None:
        """Add a point to the curve; the last ones also measure the split that gives the run its score.

        What is measured there goes to the record only.
        """
        training = self.config.training
        split = curve_split(self.dataset.spec.tasks)
        index = len(self.curve)
        point = self.evaluation(split, training.eval_episodes, index, self.headline)
        finite = {name: value if math.isfinite(value) else None for name, value in means.items()}
        embedding = {name: self.embedding_numbers(name) for name in dict.fromkeys(("train", split))}
        self.curve.append({"step": self.step, "metrics": finite, "embedding": embedding} | as_plain(point))
        for sink in self.sinks:
            sink.write(self.curve)
        if index >= len(evaluation_steps(training.steps, training.eval_interval)) - SCORED_EVALUATIONS:
            embedding = {"embedding": self.embedding_numbers(self.config.eval_split)}
            self.evaluations.append(self.final_evaluation(self.headline) | embedding)
        self.means.reset()

    def final_evaluation(self, protocol: str) -> dict[str, Any]:
        """What the parameters earn under `protocol` where the score of the run is measured."""
        training, index = self.config.training, len(self.curve) - 1
        measured = self.evaluation(self.config.eval_split, training.final_eval_episodes, index, protocol)
        about = {"step": self.step, "protocol": protocol} | as_plain(measured)
        return about | ({"contexts": data_identity(self.logs[protocol])} if protocol == "offline_shifted" else {})

    def other_protocols(self) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """The final parameters under all protocols but the one of the score, and why where one cannot be measured."""
        measured, unmeasured = [], {}
        for protocol in PROTOCOLS:
            if protocol not in self.logs:
                unmeasured[protocol] = "a split of one task has no other task's policy"
            elif protocol != self.headline:
                try:
                    measured.append(self.final_evaluation(protocol))
                except (NotImplementedError, Diverged) as error:
                    unmeasured[protocol] = str(error)
        return measured, unmeasured

    def evaluation(self, split: str, episodes: int, index: int, protocol: str) -> Evaluation:
        config, dataset = self.config, self.logs[protocol]
        size = config.algorithm.context_size
        return evaluate(self.algorithm, dataset, split, episodes, config.seed, index, size, protocol)

    def embeddings(self, task_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray] | None:
        seed, size = self.config.seed, self.config.algorithm.context_size
        return embed_tasks(self.algorithm, self.dataset, task_ids, CONTEXTS_PER_TASK, seed, size)

    def embedding_numbers(self, split: str) -> dict[str, float | None] | None:
        """`embedding_diagnostics` of the tasks of a split, None where the method has no embeddings."""
        tasks = self.dataset.spec.tasks
        embedded = self.embeddings(tasks.splits[split])
        if embedded is None:
            return None
        return embedding_diagnostics(*embedded, tasks.parameters[sorted(tasks.splits[split])], self.algorithm.bounded)

    def progress(self, means: dict[str, float]) -> Progress:
        score = self.curve[-1]["score"] if self.curve else None
        rate = (self.updates - self.first_update) / (time.monotonic() - self.began)
        stage = None if self.stage == LAST_STAGE else self.stage
        return Progress(stage, self.step, self.steps, means, score, rate)

    def finished_result(self) -> dict[str, Any]:
        scores = [e["score"] for e in self.evaluations]
        measured, unmeasured = self.other_protocols()
        result = self._result("finished", None, sum(scores) / len(scores))
        return result | {"evaluations": self.evaluations + measured, "unmeasured": unmeasured}

    def diverged_result(self, error: Diverged) -> dict[str, Any]:
        """A diverged run keeps its place with at most the score of a random policy."""
        last = self.curve[-1]["score"] if self.curve else 0.0
        return self._result("diverged", str(error), min(0.0, last))

    def _result(self, status: str, message: str | None, score: float) -> dict[str, Any]:
        return {
            "status": status,
            "message": message,
            "score": score,
            "curve": self.curve,
            "evaluations": self.evaluations,
        } | ({"interaction": self.sampler.counts()} if isinstance(self.sampler, CollectingSampler) else {})

    def all_sittings(self) -> list[dict[str, Any]]:
        now = {
            "started": self.started,
            "git": self.git,
            "seconds": time.monotonic() - self.began,
            "processor_seconds": time.process_time() - self.began_processor,
            "steps": self.updates - self.first_update,
        }
        return [*self.sittings, now]

    def over_all_sittings(self) -> dict[str, Any]:
        """The sittings, the times of all, and the code of the last, which counts as changed where that of one was."""
        sittings = self.all_sittings()
        states = [sitting["git"] for sitting in sittings if "git" in sitting]  # older checkpoints do not tell
        git = None if None in states else states[-1] | {"dirty": any(state["dirty"] for state in states)}
        wall, processor = (sum(sitting[name] for sitting in sittings) for name in ("seconds", "processor_seconds"))
        times = {"wall_seconds": wall, "processor_seconds": processor, "steps_per_second": self.updates / wall}
        return {"git": git, "sittings": sittings} | times

    def write_artefacts(self) -> list[str]:
        """Keep beside the record what its picture and later evaluations need; the names of the files."""
        contents = {".npz": self.picture_arrays(), ".safetensors": stored_weights(self.algorithm, self.dataset)}
        written = []
        for suffix, content in contents.items():
            if content:
                write_atomic(self.path.with_suffix(suffix), content)
                written.append(self.path.with_suffix(suffix).name)
        return written

    def picture_arrays(self) -> bytes | None:
        """An npz of task embeddings, and of the first final episode of each task; None where it is too large to keep.

        `embeddings` (n, latent) with `embedding_tasks` (n,), absent where the method has none; `paths`
        (n_tasks, horizon + 1, observation_dim) with `path_tasks` (n_tasks,), absent where they are too large.
        """
        arrays = {}
        embedded = self.embeddings(range(len(self.dataset.spec.tasks)))
        if embedded is not None:
            arrays["embedding_tasks"], arrays["embeddings"] = embedded
        final = self.evaluation(self.config.eval_split, 1, len(self.curve) - 1, self.headline)
        if final.observations.nbytes <= PICTURE_LIMIT:
            arrays["path_tasks"], arrays["paths"] = np.array(final.task_ids), final.observations[:, 0]
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue() if buffer.tell() <= PICTURE_LIMIT else None


def make_algorithm(config: RunConfig, dataset: MultiTaskDataset) -> Algorithm:
    seed = int(seed_sequence(config.seed, Stream.LEARNER).generate_state(1)[0])
    tasks, method = meta_env(config.env).tasks, algorithm_class(config.algo)
    problem = Problem(
        observation_dim=dataset.observations.shape[1],
        action_dim=dataset.actions.shape[1],
        task_dim=tasks.parameters.shape[1],
        n_train_tasks=len(tasks.splits["train"]),
        env=config.env,
        observation_mean=dataset.observation_mean,
        observation_scale=dataset.observation_scale,
        evaluated_tasks=evaluated_tasks(config, dataset.spec.tasks) if method.allowance == "dataset" else (),
    )
    torch.manual_seed(seed)
    return method(problem, config.algorithm, seed, config.training.device)


def make_sampler(
    config: RunConfig, dataset: MultiTaskDataset, algorithm: Algorithm, batches: np.random.Generator
) -> MetaBatchSampler | CollectingSampler:
    """What draws the meta-batches that `algorithm` asks for in its stage, from the stream `batches`.

    Raises TypeError for one that asks for data of the evaluated tasks without that allowance.
    """
    evaluated = algorithm.learns_from == "evaluated"
    if evaluated and algorithm.allowance != "dataset":
        raise TypeError(f'{type(algorithm).__name__} learns from evaluated tasks: set allowance = "dataset"')

    def drawing(data: MultiTaskDataset | ReplayBuffer, transitions: int) -> MetaBatchSampler:
        sampler = MetaBatchSampler(
            data,
            rl_reward=config.training.rl_reward,
            meta_batch=algorithm.tasks_per_batch,
            transitions=transitions,
            context_size=algorithm.context_per_task,
            privileged=algorithm.privileged,
            generator=batches,
            task_ids=algorithm.problem.evaluated_tasks if evaluated else None,
        )
        if sampler.task_parameters is not None:
            sampler.task_parameters = sampler.task_parameters.to(config.training.device)
        return sampler

    if algorithm.interacts:
        return CollectingSampler(config, dataset, algorithm, drawing)
    return drawing(dataset, algorithm.transitions_per_task)


def curve_split(tasks: TaskSet) -> str:
    """The split that points of the curve are measured on."""
    return "validation" if tasks.splits["validation"] else "train"


def evaluated_tasks(config: RunConfig, tasks: TaskSet) -> tuple[int, ...]:
    """The tasks of the curve and those of the final evaluations."""
    return tuple(sorted({*tasks.splits[curve_split(tasks)], *tasks.splits[config.eval_split]}))


def evaluation_steps(steps: int, interval: int) -> list[int]:
    """The updates after which the curve gets a point: every multiple of `interval`, and the last."""
    return [*range(interval, steps, interval), steps]


def as_plain(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "split": evaluation.split,
        "task_ids": list(evaluation.task_ids),
        "returns": evaluation.returns.tolist(),
        "score": evaluation.score,
    }
