"""Is A better than B? Two sides of run records, compared in the meta-environments that both have.

A side is a method, a suite, or a path: one record, or a folder of them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omrlbench.algorithms.algorithm import ALLOWANCES
from omrlbench.config import budget_names, resolve
from omrlbench.errors import BenchError, unknown
from omrlbench.evaluation import PROTOCOLS
from omrlbench.record import RunRecord
from omrlbench.registry import algorithms, kind
from omrlbench.significance import SIGNIFICANCE, exact_p, smallest_p
from omrlbench.stats import Estimate, aggregates, mean_interval, probability_of_improvement, score_matrix
from omrlbench.suite import suite_cells, suite_names
from omrlbench.verification import verified_record

BETTER, WORSE, ALIKE, UNDECIDED = "better", "worse", "alike", "undecided"  # verdicts on A
PATH_DEPTH = 4  # folders between a results folder and a record: environment, level, method, cell

Runs = dict[int, RunRecord]  # by seed
Side = dict[str, Runs]  # by column
Score = Callable[[RunRecord], float]


@dataclass(frozen=True)
class Comparison:
    """A and B in one column, or in several together: what they score, P(A > B), and the exact p of no difference."""

    column: str
    a: Estimate
    b: Estimate
    improvement: Estimate
    p: float


@dataclass(frozen=True)
class Result:
    """One comparison per common column, the one that decides, and what is on one side only or to be known.

    `verdict` says what A is beside B: BETTER or WORSE where p is below 5 %, ALIKE where such a p was possible, else
    UNDECIDED.
    """

    columns: list[Comparison]
    together: Comparison | None
    verdict: str
    remarks: list[str]


def compare(a: str, b: str, results_dirs: Sequence[Path], budget: str, protocol: str | None = None) -> Result:
    """The scores of the runs, or, given a `protocol`, those of their final parameters under it.

    Raises BenchError for a side that is unknown or has no or damaged runs, and for sides that do not compare.
    """
    if budget not in budget_names():
        raise unknown("budget", budget, budget_names())
    first, second = (find_side(name, results_dirs, budget) for name in (a, b))
    if protocol is not None:
        first, second = evaluated(a, first, protocol), evaluated(b, second, protocol)
    common = [column for column in first if column in second]
    if not common:
        places = (f"{name} has {', '.join(side)}" for name, side in ((a, first), (b, second)))
        raise BenchError(f"no meta-environment in common: {'; '.join(places)}")
    remarks = [f"only in {a}: {column}" for column in first if column not in second]
    remarks += [f"only in {b}: {column}" for column in second if column not in first]
    remarks += different_kinds(a, first, b, second)
    for column in common:
        remarks += check_comparable(column, first[column], second[column], protocol)
    score = (lambda run: run.result["score"]) if protocol is None else (lambda run: run.final_score(protocol))
    columns = [compare_columns([column], first, second, score) for column in common]
    together = compare_columns(common, first, second, score) if len(common) > 1 else columns[0]
    if together is None:
        remarks.append("no seed has run in all common meta-environments on both sides")
    return Result(columns, together, decide(together, len(common)), remarks)


def evaluated(name: str, side: Side, protocol: str) -> Side:
    """The runs of `side` whose final parameters have a score under `protocol`. Raises BenchError without any."""
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    told = {
        column: {seed: run for seed, run in runs.items() if run.final_score(protocol) is not None}
        for column, runs in side.items()
    }
    if not any(told.values()):
        raise BenchError(f"no run of {name} was evaluated under the protocol {protocol}")
    return {column: runs for column, runs in told.items() if runs}


def different_kinds(a: str, first: Side, b: str, second: Side) -> list[str]:
    """A line where the sides see different things of the evaluated tasks, one where they learn from different ones."""
    seen, learned = [], []
    for side in (first, second):
        kinds = {kind(run.config["algo"]) for runs in side.values() for run in runs.values()}
        seen.append(" or ".join(sorted({ALLOWANCES[allowance] for allowance, _ in kinds})))
        learned.append(" or ".join(sorted({experience for _, experience in kinds})))
    lines = [f"of an evaluated task {a} sees {seen[0]}, {b} {seen[1]}"] if seen[0] != seen[1] else []
    return lines + ([f"{a} learns from {learned[0]}, {b} from {learned[1]}"] if learned[0] != learned[1] else [])


def compare_columns(columns: Sequence[str], a: Side, b: Side, score: Score) -> Comparison | None:
    """Over the seeds with a run in all of `columns`, None where a side has none; of several columns the IQM."""
    x, y = (
        score_matrix({column: {seed: score(run) for seed, run in side[column].items()} for column in columns}).rows
        for side in (a, b)
    )
    if not (len(x) and len(y)):
        return None
    summary = (lambda rows: mean_interval(rows[:, 0])) if len(columns) == 1 else (lambda rows: aggregates(rows)["IQM"])
    name = columns[0] if len(columns) == 1 else "together"
    return Comparison(name, summary(x), summary(y), probability_of_improvement(x, y), exact_p(x, y))


def decide(found: Comparison | None, columns: int) -> str:
    if found is None or smallest_p(*found.improvement.n, columns) >= SIGNIFICANCE:
        return UNDECIDED
    if found.p >= SIGNIFICANCE:
        return ALIKE
    return BETTER if found.improvement.value > 0.5 else WORSE


def check_comparable(column: str, a: Runs, b: Runs, protocol: str | None) -> list[str]:
    """What to know of runs that are compared. Raises BenchError where they were measured by other rules.

    Scores of runs, where no `protocol` was asked for, are of one protocol.
    """
    records = [*a.values(), *b.values()]
    for what in ("env", "protocol"):
        revisions = sorted({record.config["revisions"][what] for record in records})
        if len(revisions) > 1:
            raise BenchError(f"{column}: revisions {revisions[0]} and {revisions[-1]} of the {what} cannot be compared")
    protocols = sorted({record.protocol for record in records} - {None})
    if protocol is None and len(protocols) > 1:
        raise BenchError(
            f"{column}: scores under the protocols {' and '.join(protocols)} cannot be compared, "
            "those of final parameters can: --protocol online"
        )
    recipes = {record.config["dataset"]["recipe"] for record in records}
    budgets = sorted({record.config["budget"] for record in records})
    diverged = sum(record.status == "diverged" for record in records)
    found = {
        f"{column}: the sides learned from different datasets": len(recipes) > 1,
        f"{column}: different budgets, {' and '.join(budgets)}": len(budgets) > 1,
        f"{column}: {diverged} of {len(records)} runs diverged and count with their floor score": diverged,
    }
    return [remark for remark, holds in found.items() if holds]


def find_side(name: str, results_dirs: Sequence[Path], budget: str) -> Side:
    if name in algorithms():
        return method_side(name, results_dirs, budget)
    if name in suite_names():
        return suite_side(name, results_dirs)
    if Path(name).exists():
        return path_side(Path(name))
    raise unknown("method, suite or path", name, [*algorithms(), *suite_names()])


def method_side(name: str, results_dirs: Sequence[Path], budget: str) -> Side:
    """The runs of a method with its own values, at every level of every meta-environment that it has been run on."""
    side: Side = {}
    places = {path.parts[-3:-1] for folder in results_dirs for path in sorted(folder.glob(f"*/*/{name}"))}
    for env, level in sorted(places):
        config = resolve(env, name, level=level, budget=budget)
        runs = read_cell(config.record_path("").parent, results_dirs)
        if runs:
            side[f"{env}, {level}"] = runs
    if not side:
        where = ", ".join(map(str, results_dirs))
        raise BenchError(
            f"no runs of {name} at the {budget} budget in {where}: bench run --algo {name} --budget {budget} --env ..."
        )
    return side


def suite_side(name: str, results_dirs: Sequence[Path]) -> Side:
    cells = {}
    for variant, config in suite_cells(name):
        labels = (f"{config.env}, {config.level}", split_label(config.eval_split), config.algo, variant)
        cells[labels] = config.record_path("").parent
    side = {labels: read_cell(folder, results_dirs) for labels, folder in cells.items()}
    found = named({labels: runs for labels, runs in side.items() if runs})
    if not found:
        raise BenchError(f"no runs of the suite {name} in {', '.join(map(str, results_dirs))}: bench sweep {name}")
    return found


def path_side(path: Path) -> Side:
    """A record, or all records below a folder, of one configuration per meta-environment and method."""
    paths = [path] if path.is_file() else sorted(path.rglob("seed-*.json"))
    side: dict[tuple[str, ...], Runs] = {}
    cells: dict[tuple[str, ...], Path] = {}
    for place in map(Path.absolute, paths):
        record = verified_record(place, place.parents[PATH_DEPTH])
        c = record.config
        labels = (f"{c['env']}, {c['level']}", split_label(c["eval_split"]), c["algo"])
        other = cells.setdefault(labels, place.parent)
        if other != place.parent:
            raise BenchError(f"{path} has several configurations of {c['algo']}: name {other} or {place.parent}")
        side.setdefault(labels, {})[c["seed"]] = record
    if not side:
        raise BenchError(f"there are no records in {path}")
    return named(side)


def split_label(split: str) -> str:
    return "" if split == "test" else f"{split} tasks"


def named(side: dict[tuple[str, ...], Runs]) -> Side:
    """Columns by the labels that tell them apart: always the first two, others where they are not all the same."""
    varying = [k for k, values in enumerate(zip(*side, strict=True)) if k < 2 or len(set(values)) > 1]
    return {", ".join(labels[k] for k in varying if labels[k]): runs for labels, runs in side.items()}


def read_cell(folder: Path, results_dirs: Iterable[Path]) -> Runs:
    """The verified records of a cell; where two results folders have a seed, that of the first counts."""
    runs: Runs = {}
    for results_dir in results_dirs:
        for path in sorted((results_dir / folder).glob("seed-*.json")):
            record = verified_record(path, results_dir)
            runs.setdefault(record.config["seed"], record)
    return dict(sorted(runs.items()))
