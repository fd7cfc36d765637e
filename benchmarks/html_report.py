"""The leaderboard as one page for a browser: `bench report --html`, a pure function of the records.

The page is BENCHMARKS.md made alive. Its text, tables and figures are rendered from the same words and numbers; in
place of two parts it has the leaderboard that sorts, filters and compares, and the claims with the runs that they
were judged by. Everything is inside the file, so it needs no network.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader

from omrlbench.algorithms.algorithm import ALLOWANCES
from omrlbench.claims import BUDGET, PAPERS, Claim, Side, Verdict, cell_folder, judge_claims, measured
from omrlbench.config import allowance_of, experience_of
from omrlbench.leaderboard import REFERENCE_ROWS, SUITE, Cell, Leaderboard
from omrlbench.leaderboard_figures import svgs
from omrlbench.leaderboard_texts import NONE, document, marks, number, plus_minus, seeds_text, with_ends
from omrlbench.markdown_html import breakable, sections
from omrlbench.record import RunRecord
from omrlbench.stats import mean_interval, paired_difference

LEADERBOARD, CLAIMS = "{leaderboard}", "{claims}"  # in place of the two parts of the text
MEBIBYTE = 2**20


class Shown(NamedTuple):
    """What a cell of the leaderboard shows: a score, or its difference to that of a reference method."""

    value: float | None  # to sort by
    text: str
    seeds: str
    verdict: str = ""


def page(board: Leaderboard, results_dir: Path) -> str:
    """The whole page; `results_dir` is where its commands say that the records are."""
    templates = Environment(
        loader=PackageLoader("omrlbench", "templates/report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["breakable"] = breakable
    comparisons = {"": scores(board)} | {method: differences(board, method) for method in references(board)}
    table = templates.get_template("leaderboard.html").render(
        columns=board.columns,
        methods=board.methods,
        reference_rows=REFERENCE_ROWS,
        shown=comparisons[""],
        comparisons=comparisons,
        cells={
            method: [cell_facts(board.cells[column, method], results_dir) for column in board.columns]
            for method in board.methods
        },
    )
    papers = {paper: judged_claims(paper.claims, board, results_dir) for paper in PAPERS}
    claims = templates.get_template("claims.html").render(budget=BUDGET, papers=papers)
    text = document(board, per_environment=LEADERBOARD, claims=CLAIMS)
    intro, *rest = sections(text, svgs(board), {LEADERBOARD: table, CLAIMS: claims})
    return templates.get_template("page.html").render(intro=intro, sections=rest)


def references(board: Leaderboard) -> list[str]:
    """The methods that others can be compared with: those that have runs."""
    return [method for method in board.methods if any(board.scores(column, method) for column in board.columns)]


def scores(board: Leaderboard) -> dict[str, list[Shown]]:
    """By method, a cell for every column."""
    return {m: [shown_score(board.cells[column, m]) for column in board.columns] for m in board.methods}


def shown_score(cell: Cell) -> Shown:
    value = cell.estimate.value if cell.estimate else None
    return Shown(value, plus_minus(cell.estimate) + marks(cell), seeds_text(cell))


def differences(board: Leaderboard, reference: str) -> dict[str, list[Shown]]:
    """As `scores`, but of the differences to `reference`; its own row keeps its scores and sorts as no difference."""
    rows = {m: [shown_difference(board, column, m, reference) for column in board.columns] for m in board.methods}
    own = [shown_score(board.cells[column, reference]) for column in board.columns]
    return rows | {reference: [shown._replace(value=None if shown.value is None else 0.0) for shown in own]}


def shown_difference(board: Leaderboard, column: tuple[str, str], method: str, reference: str) -> Shown:
    found = paired_difference(board.scores(column, method), board.scores(column, reference))
    if found is None:
        return Shown(None, NONE, "n = 0")
    half = "" if found.high is None else f" ± {found.high - found.value:.3f}"
    verdict = ""
    if found.low is not None and not found.low <= 0 <= found.high:
        verdict = "better" if found.low > 0 else "worse"
    cell, other = board.cells[column, method], board.cells[column, reference]
    marked = "".join(mark for mark in (" †", " ‡") if mark in marks(cell) + marks(other))
    seeds = f"n = {found.n[0]}" + (f", {cell.diverged} diverged" if cell.diverged else "")
    return Shown(found.value, f"{found.value:+z.3f}{half}{marked}", seeds, verdict)


@dataclass(frozen=True)
class CellFacts:
    """A cell as its dialog tells it."""

    title: str
    mean: str
    tooltip: str
    runs: list["RunFacts"]
    sweep: str | None


def cell_facts(cell: Cell, results_dir: Path) -> CellFacts:
    config = cell.config
    return CellFacts(
        title=f"{config.algo} on {config.env}, {config.level} data",
        mean=f"{plus_minus(cell.estimate)}{marks(cell)} ({seeds_text(cell)})",
        tooltip=", ".join(f"seed {seed}: {number(score)}" for seed, score in cell.scores.items()),
        runs=[run_facts(run, cell, results_dir) for run in cell.runs.values()],
        sweep=sweep_command(cell, results_dir),
    )


@dataclass(frozen=True)
class RunFacts:
    """A run as its cell's dialog tells it."""

    summary: str
    message: str | None
    facts: list[tuple[str, str]]
    repeat: str
    again: str


def run_facts(run: RunRecord, cell: Cell, results_dir: Path) -> RunFacts:
    config, execution, dataset = run.config, run.execution, run.config["dataset"]
    path = cell.config.record_path(results_dir).with_name(f"seed-{config['seed']}.json").as_posix()
    minutes = execution["wall_seconds"] / 60
    git, parameters = execution["git"], execution.get("parameters")
    facts = {
        "record": path,
        "dataset": f"{config['level']} level, {config['behavior']} behaviour policies, {dataset['state']}",
        "learned from": experience_of(config),
        "saw of a test task": ALLOWANCES[allowance_of(config)] + ", which it collected" * (run.protocol == "online"),
        "protocol of the score": run.protocol or NONE,
        "dataset recipe": dataset["recipe"],
        "dataset content": dataset["content"],
        "commit": "made outside a clone" if git is None else git["commit"] + ", with local changes" * git["dirty"],
        "versions": ", ".join(f"{name} {version}" for name, version in execution["versions"].items()),
        "revisions": ", ".join(f"{name} {revision}" for name, revision in config["revisions"].items()),
        "processor": f"{execution['cpu']}, {execution['device']}",
        "wall time": f"{minutes:.1f} min, {execution['steps_per_second']:.0f} updates/s",
        "peak memory": f"{execution['peak_memory_bytes'] / MEBIBYTE:.0f} MiB",
        "learned parameters": NONE if parameters is None else f"{parameters:,}",
        "fingerprint": config["fingerprint"],
    }
    return RunFacts(
        summary=f"seed {config['seed']}: {number(run.result['score'])}, {run.status}, {minutes:.1f} min",
        message=run.result["message"],
        facts=list(facts.items()),
        repeat=shlex.join(["bench", "run", "--from", path]),
        again=run_command(cell, config["seed"]),
    )


def run_command(cell: Cell, seed: int) -> str:
    """Makes the run anew; a cell of the suite has no values but those of its method, environment and budget."""
    config = cell.config
    words = ["--algo", config.algo, "--env", config.env, "--level", config.level, "--budget", config.budget]
    return shlex.join(["bench", "run", *words, "--seed", str(seed)])


def sweep_command(cell: Cell, results_dir: Path) -> str | None:
    """Makes the promised runs that are missing, None where none is."""
    if cell.runs.keys() >= set(cell.promised):
        return None
    only = f"algo={cell.config.algo},env={cell.config.env}"
    return shlex.join(["bench", "sweep", SUITE, "--only", only, "--results-dir", results_dir.as_posix()])


@dataclass(frozen=True)
class ClaimFacts:
    """A claim, its verdict, and the runs it is about: `evidence` has (meta-environment, side, values, folder)."""

    claim: Claim
    verdict: Verdict
    effect: str
    n: str
    p: str
    evidence: list[tuple[str, Side, str, str]]


def judged_claims(claims: Sequence[Claim], board: Leaderboard, results_dir: Path) -> list[ClaimFacts]:
    verdicts = zip(claims, judge_claims(board.results, claims), strict=True)
    return [claim_facts(claim, verdict, board, results_dir) for claim, verdict in verdicts]


def claim_facts(claim: Claim, verdict: Verdict, board: Leaderboard, results_dir: Path) -> ClaimFacts:
    evidence = []
    for env in claim.envs:
        for side in (claim.better, claim.worse):
            values = values_text(measured(side, env, claim.measure, board.results))
            evidence.append((env, side, values, (results_dir / cell_folder(side, env)).as_posix()))
    found = verdict.improvement
    return ClaimFacts(
        claim=claim,
        verdict=verdict,
        effect=with_ends(found) if found else NONE,
        n=" and ".join(map(str, found.n)) if found else NONE,
        p=NONE if verdict.p is None else f"{verdict.p:.2g}",
        evidence=evidence,
    )


def values_text(values: dict[int, float]) -> str:
    """Mean with interval, and what it is the mean of."""
    if not values:
        return "no runs"
    return f"{plus_minus(mean_interval(list(values.values())))} (seeds {', '.join(map(str, values))})"
