"""The leaderboard in words and numbers: BENCHMARKS.md and results/leaderboard.csv."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from omrlbench.claims import BUDGET, PAPERS, Paper, judge_claims
from omrlbench.data.identity import PINNED
from omrlbench.envs.registry import get_meta_env
from omrlbench.evaluation import headline_protocol
from omrlbench.leaderboard import (
    REFERENCE_ROWS,
    SUITES,
    UNTRAINED,
    Cell,
    Leaderboard,
    compared,
    everything,
    held_out,
    one_expert,
    promised,
    rankings,
)
from omrlbench.published import published
from omrlbench.record import RunRecord
from omrlbench.registry import algorithm_class, kind
from omrlbench.stats import CONFIDENCE, METRICS, Estimate, mean_interval, paired_difference, simulated_coverage
from omrlbench.training import HEADLINE_PROTOCOL

NONE = "–"
BEFORE, AFTER = "smac_offline", "smac"  # the reward-free interaction, which is to close the gap between contexts
MIXED_SUITE = "online_mixed"  # has both too
CONTROL_SUITE = "online_control"  # has more updates in place of the interaction


def texts(board: Leaderboard) -> dict[str, str]:
    """The generated text files: path below the output folder -> content."""
    return {"BENCHMARKS.md": document(board), "results/leaderboard.csv": table_csv(board)}


def document(board: Leaderboard, **instead: str) -> str:
    """The text of BENCHMARKS.md; `instead` has other texts for sections of its template."""
    sections: dict[str, Callable[[Leaderboard], str]] = {
        "suite": lambda board: board.suite,
        "budget": lambda board: board.budget,
        "progress": progress,
        "per_environment": per_environment,
        "adaptation": adaptation,
        "headline": lambda board: aggregate_table(board, board.headline),
        "everywhere": lambda board: aggregate_table(board, board.columns),
        "ablations": ablations,
        "levels": levels,
        "tuning": tuning,
        "claims": claims,
        "protocols": protocol_tables,
        "published": beside_published,
        "cost": cost,
        "holes": holes,
    }
    of_others = {"progress": progress, "rankings": ranking_tables, "cost": cost, "holes": holes}
    written = {
        f"{suite}_{name}": write(other) for suite, other in board.others.items() for name, write in of_others.items()
    }
    whole = everything(board)
    both = board.others["online"], promised(board.results, MIXED_SUITE)
    written |= {"context_gap": context_gap(*both, control=compared(board.results, CONTROL_SUITE))}
    written |= {"provenance": provenance(whole), "unused": unused(whole)}
    written |= {name: instead.get(name) or write(board) for name, write in sections.items()}
    return Template((files("omrlbench") / "templates" / "BENCHMARKS.md").read_text()).substitute(written)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None, digits: int = 3) -> str:
    return NONE if value is None else f"{value:z.{digits}f}"


def plus_minus(estimate: Estimate | None, digits: int = 3) -> str:
    """Mean and half width of a symmetric interval, without n."""
    if estimate is None:
        return NONE
    half = "" if estimate.high is None else f" ± {estimate.high - estimate.value:.{digits}f}"
    return number(estimate.value, digits) + half


def with_ends(estimate: Estimate) -> str:
    ends = "" if estimate.low is None else f" [{number(estimate.low)}, {number(estimate.high)}]"
    return number(estimate.value) + ends


def heading(column: tuple[str, str]) -> str:
    return f"{column[0]}<br>{column[1]} data"


def shown_method(method: str) -> str:
    return f"*{method}*" if method in REFERENCE_ROWS else method


def progress(board: Leaderboard) -> str:
    promised = sum(len(cell.promised) for cell in board.cells.values())
    done = sum(len(set(cell.promised) & cell.runs.keys()) for cell in board.cells.values())
    return f"{done} of {promised}"


def per_environment(board: Leaderboard, methods: Sequence[str] | None = None) -> str:
    """A row for each of `methods`, by default all."""
    rows = [
        [shown_method(method), *(cell_text(board.cells[column, method]) for column in board.columns)]
        for method in methods or board.methods
    ]
    return table(["method", *map(heading, board.columns)], rows)


def cell_text(cell: Cell) -> str:
    return f"{plus_minus(cell.estimate)} ({seeds_text(cell)}){marks(cell)}"


def seeds_text(cell: Cell) -> str:
    n, promised = len(cell.runs), len(cell.promised)
    if not n:
        return f"0 of {promised}"
    seeds = f"n = {n}" if n >= promised else f"n = {n} of {promised}"
    return f"{seeds}, {cell.diverged} diverged" if cell.diverged else seeds


def marks(cell: Cell) -> str:
    return ("" if cell.pinned else " †") + (" ‡" if cell.dirty else "")


def adaptation(board: Leaderboard) -> str:
    rows = []
    for column in board.columns:
        gap = board.gap(column)
        means = [cell_text(board.cells[column, m]) for m in ("oracle_task", "no_context", "do_nothing")]
        means.append(number(one_expert(column[0])))
        n = NONE if gap is None else str(gap.n[0])
        informative = board.uninformative(column) or "yes"
        rows.append([column[0], *means, plus_minus(gap), n, "yes" if held_out(column[0]) else "no", informative])
    methods = ["oracle_task", "no_context", "do_nothing", "one expert"]
    return table(["meta-environment", *methods, "adaptation gap", "n", "held-out tasks", "informative"], rows)


def aggregate_table(board: Leaderboard, columns: Sequence[tuple[str, str]]) -> str:
    """The aggregates over `columns`, which methods have none, and what the intervals are worth."""
    if not columns:
        return "There is no such meta-environment yet."
    complete = board.aggregates(columns)
    rows = [
        [shown_method(method), str(found["IQM"].n[0]), *(with_ends(found[name]) for name in METRICS)]
        for method, found in complete.items()
    ]
    without = [method for method in board.methods if method not in complete]
    names = ", ".join(column[0] for column in columns)
    lines = [f"{len(columns)} meta-environments: {names}.", "", table(["method", "n", *METRICS], rows)]
    if without:
        lines += ["", f"Without one complete seed: {', '.join(without)}."]
    of_seeds = (method for method, found in complete.items() if found["IQM"].n[0] > 1)
    if example := next((method for method in of_seeds if method not in REFERENCE_ROWS), None):
        scores = board.matrix(example, columns).rows
        held = simulated_coverage(len(scores), tuple(scores.mean(0)), tuple(scores.std(0, ddof=1)))
        shares = ", ".join(f"{metric} {share:.0%}" for metric, share in held.items())
        like = f"for {len(scores)} seeds like those of {example}"
        lines += ["", f"Coverage of these intervals: nominal {CONFIDENCE:.0%}, simulated {like}: {shares}."]
    return "\n".join(lines)


def ablations(board: Leaderboard) -> str:
    """The suite `ablations`, a row for each cell; those of a meta-environment and level stand together."""
    rows: dict[tuple[str, str], list[list[str]]] = {}
    for variant, cell in compared(board.results, "ablations"):
        column = cell.config.env, cell.config.level
        rows.setdefault(column, []).append([*column, cell.config.algo, variant, cell_text(cell)])
    header = ["meta-environment", "data", "method", "values", "score"]
    return table(header, [row for found in rows.values() for row in found])


def levels(board: Leaderboard) -> str:
    """The suite `levels`: a row for each meta-environment, a column for each level of the data."""
    rows: dict[str, dict[str, str]] = {}
    for _, cell in compared(board.results, "levels"):
        rows.setdefault(cell.config.env, {})[cell.config.level] = cell_text(cell)
    columns = list(dict.fromkeys(level for found in rows.values() for level in found))
    return table(["meta-environment", *columns], [[env, *map(found.get, columns)] for env, found in rows.items()])


def tuning(board: Leaderboard) -> str:
    """How many configurations of each learning method were tried on validation tasks, as far as records tell."""
    tried: dict[tuple[str, tuple[str, str]], set[Path]] = {}
    for folder, runs in board.results.runs.items():
        for run in runs.values():
            if run.config["eval_split"] == "validation":
                tried.setdefault((run.config["algo"], (run.config["env"], run.config["level"])), set()).add(folder)
    methods = [method for method in everything(board).methods if method not in UNTRAINED]
    ranked = [column for column in board.columns if get_meta_env(column[0]).tasks.splits["validation"]]
    columns = [*ranked, *sorted({column for _, column in tried} - set(ranked))]
    rows = [[shown_method(method), *(str(len(tried.get((method, c), ()))) for c in columns)] for method in methods]
    return table(["method", *map(heading, columns)], rows)


def ranking_tables(board: Leaderboard) -> str:
    """The rankings of `board`, each by meta-environment and, of several, over all; headings tell the rankings apart."""
    found, lines = rankings(board), []
    for (_, experience), ranked in found.items():
        if len(found) > 1:
            lines += [f"### From {experience}", ""]
        lines += [per_environment(ranked), ""]
        if len(ranked.columns) > 1:
            lines += [aggregate_table(ranked, ranked.columns), ""]
    return "\n".join(lines).rstrip()


def context_gap(*boards: Leaderboard, control: Sequence[tuple[str, Cell]] = ()) -> str:
    """What self-collected contexts cost the final parameters, before and after SMAC's interaction, and the change.

    At the end the same of each (variant, cell) of `control`, which does not interact.
    """

    def row(cell: Cell, remark: str, scores: list[dict[int, float]]) -> list[str]:
        estimates = [mean_interval(list(of_seeds.values())) if of_seeds else None for of_seeds in scores]
        return [f"{cell.config.env}, {cell.config.level} data", cell.config.algo + remark, *gap_texts(estimates)]

    rows = []
    columns = {column: board.cells for board in boards for column in board.columns}
    for column, found in columns.items():
        cells = [found[column, method] for method in (BEFORE, AFTER)]
        before, after = map(gap_scores, cells)
        change = [paired_difference(a, b) for a, b in zip(after, before, strict=True)]
        rows += [row(cell, marks(cell), scores) for cell, scores in zip(cells, (before, after), strict=True)]
        rows.append([f"{column[0]}, {column[1]} data", "change", *gap_texts(change)])
    rows += [row(cell, f", {variant}{marks(cell)}", gap_scores(cell)) for variant, cell in control]
    return table(["meta-environment", "method", "logged context", "self-collected context", "gap", "n"], rows)


def gap_scores(cell: Cell) -> list[dict[int, float]]:
    """By seed, of the final parameters: scores with logged and with self-collected contexts, and their difference."""
    logged, collected = (last_scores(cell, protocol) for protocol in ("offline", "online"))
    seeds = [seed for seed in logged if seed in collected]
    gaps = {seed: logged[seed] - collected[seed] for seed in seeds}
    return [{seed: logged[seed] for seed in seeds}, {seed: collected[seed] for seed in seeds}, gaps]


def gap_texts(estimates: Sequence[Estimate | None]) -> list[str]:
    n = NONE if estimates[-1] is None else str(estimates[-1].n[0])
    return [*map(plus_minus, estimates), n]


def claims(board: Leaderboard) -> str:
    """A part for each paper: what it is, what the suites test of it, and the verdicts."""
    parts = [
        f"### {paper.name}\n\n{paper.authors}, *{paper.title}*, {paper.venue}. {paper.tested}\n\n"
        + claims_table(paper, board)
        for paper in PAPERS
    ]
    return "\n\n".join(parts)


def claims_table(paper: Paper, board: Leaderboard) -> str:
    rows = []
    for claim, verdict in zip(paper.claims, judge_claims(board.results, paper.claims), strict=True):
        found = verdict.improvement
        effect = [with_ends(found), " and ".join(map(str, found.n))] if found else [NONE, NONE]
        p = NONE if verdict.p is None else f"{verdict.p:.2g}"
        status = f"**{verdict.status}** at the {BUDGET} budget" + (f": {verdict.reason}" if verdict.reason else "")
        wins = [f" {win:.2f}" for win in verdict.in_each] if len(verdict.in_each) > 1 else [""] * len(claim.envs)
        envs = ", ".join(env + win for env, win in zip(claim.envs, wins, strict=True))
        sides = [str(claim), claim.measure, envs, claim.where]
        rows.append([*sides, *effect, p, status])
    header = ["claim", "measure", "meta-environments", "in the paper", "P(first > second)", "n", "p", "verdict"]
    return table(header, rows)


def protocol_tables(board: Leaderboard) -> str:
    """For every protocol but the headline's: its score, and what it differs by from the headline's."""
    runs = [run for cell in board.cells.values() for run in cell.runs.values()]
    tables = []
    for protocol in sorted({e["protocol"] for run in runs for e in run.result["evaluations"]} - {HEADLINE_PROTOCOL}):
        rows = [
            [shown_method(method), *(protocol_text(board.cells[column, method], protocol) for column in board.columns)]
            for method in board.methods
        ]
        tables += [f"### `{protocol}`", "", table(["method", *map(heading, board.columns)], rows), ""]
        tables += [*unmeasured(board, protocol), ""]
    return "\n".join(tables).rstrip() or "The records hold no other protocol yet."


def unmeasured(board: Leaderboard, protocol: str) -> list[str]:
    """Which finished runs could not be evaluated under `protocol`, and why."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for ((env, _), method), cell in board.cells.items():
        for seed, run in cell.runs.items():
            reason = run.result.get("unmeasured", {}).get(protocol)
            if reason:
                found.setdefault((method, env, reason), []).append(seed)
    return [f"- {m} on {env}, seeds {', '.join(map(str, seeds))}: {why}" for (m, env, why), seeds in found.items()]


def protocol_text(cell: Cell, protocol: str) -> str:
    scores = {name: last_scores(cell, name) for name in (HEADLINE_PROTOCOL, protocol)}
    change = paired_difference(scores[protocol], scores[HEADLINE_PROTOCOL])
    if change is None:
        return NONE
    mean = sum(scores[protocol].values()) / len(scores[protocol])
    half = "" if change.high is None else f" ± {change.high - change.value:.3f}"
    mark = "" if all(contexts_pinned(run, protocol) for run in cell.runs.values()) else " †"
    return f"{number(mean)} ({change.value:+z.3f}{half}, n = {change.n[0]}){mark}"


def contexts_pinned(run: RunRecord, protocol: str) -> bool:
    """Whether the contexts that were made for `protocol` are the pinned ones, where it has such."""
    evaluations = [e for e in run.result["evaluations"] if e["protocol"] == protocol and "contexts" in e]
    return all(e["contexts"]["state"] == PINNED for e in evaluations)


def beside_published(board: Leaderboard) -> str:
    """Mean returns of the final parameters beside those that papers print."""
    levels, rows = dict(board.columns), []
    for found in published():
        cell = board.cells[(found.env, levels[found.env]), found.method]
        returns = [float(np.mean(e["returns"])) for e in last_evaluations(cell, found.protocol).values()]
        ours = plus_minus(mean_interval(returns), 1) if returns else NONE
        theirs = f"{found.mean:g} ± {found.spread:g}"
        rows.append([found.method, found.env, f"`{found.protocol}`", ours, str(len(returns)), theirs, found.source])
    return table(["method", "meta-environment", "context", "return here", "n", "published", "where"], rows)


def last_scores(cell: Cell, protocol: str) -> dict[int, float]:
    """By seed, the score of the final parameters under `protocol`."""
    return {seed: evaluation["score"] for seed, evaluation in last_evaluations(cell, protocol).items()}


def last_evaluations(cell: Cell, protocol: str) -> dict[int, dict[str, Any]]:
    """By seed, the evaluation of the final parameters under `protocol`, of the runs that have one."""
    return {seed: found for seed, run in cell.runs.items() if (found := run.last_evaluation(protocol))}


def cost(board: Leaderboard) -> str:
    rows = [
        [shown_method(method), *(cost_text(board.cells[column, method]) for column in board.columns)]
        for method in board.methods
    ]
    return table(["method", *map(heading, board.columns)], rows)


def cost_text(cell: Cell) -> str:
    if not cell.runs:
        return NONE
    minutes = f"{cell.mean(lambda run: run.execution['wall_seconds']) / 60:.1f} min"
    if all("processor_seconds" in run.execution for run in cell.runs.values()):
        minutes += f" ({cell.mean(lambda run: run.execution['processor_seconds']) / 60:.1f})"
    rate = cell.mean(lambda run: run.execution["steps_per_second"])
    count = parameters(cell)
    lines = [minutes, f"{rate:.0f} /s", NONE if count is None else f"{count:,}"]
    collected = cell.mean(lambda run: run.result.get("interaction", {}).get("transitions"))
    return "<br>".join([*lines, *([] if collected is None else [f"{collected:,.0f} collected"])])


def parameters(cell: Cell) -> int | None:
    """None where an old record does not tell."""
    counts = {run.execution.get("parameters") for run in cell.runs.values()}
    return counts.pop() if len(counts) == 1 else None


def provenance(board: Leaderboard) -> str:
    runs = [run for cell in board.cells.values() for run in cell.runs.values()]
    facts = {
        "commit": lambda e: "no clone" if e["git"] is None else e["git"]["commit"] + " (changed)" * e["git"]["dirty"],
        "versions": lambda e: ", ".join(f"{name} {version}" for name, version in e["versions"].items()),
        "processor": lambda e: f"{e['cpu']}, {e['device']}",
    }
    rows = []
    for name, fact in facts.items():
        counts = Counter(fact(run.execution) for run in runs)
        rows += [[name, value, str(counts[value])] for value in sorted(counts)]
    return "\n\n".join([table(["what", "value", "runs"], rows), datasets(board)])


def datasets(board: Leaderboard) -> str:
    counts = Counter(
        (*column, run.config["behavior"], *(run.config["dataset"][key] for key in ("recipe", "content", "state")))
        for (column, _), cell in board.cells.items()
        for run in cell.runs.values()
    )
    rows = [
        [*key[:3], f"`{key[3][:12]}`", f"`{key[4][:12]}`", key[5], str(counts[key])]
        for key in sorted(counts, key=lambda key: (board.columns.index(key[:2]), key))
    ]
    return table(["meta-environment", "level", "behaviour", "recipe", "content", "state", "runs"], rows)


def holes(board: Leaderboard) -> str:
    rows, envs = [], [env for env, _ in board.columns]
    for method in board.methods:
        missing: dict[str, list[int]] = {}
        for seed, env in sorted(board.holes(method), key=lambda hole: envs.index(hole[1])):
            missing.setdefault(env, []).append(seed)
        by_seeds: dict[str, list[str]] = {}
        for env, numbers in missing.items():
            by_seeds.setdefault(", ".join(map(str, numbers)), []).append(env)
        if missing:
            rows.append([method, "; ".join(f"{seeds} of {', '.join(where)}" for seeds, where in by_seeds.items())])
    return table(["method", "missing seeds"], rows) if rows else "Nothing."


def unused(board: Leaderboard) -> str:
    sections = []
    used = sum(len(cell.runs) for cell in board.cells.values())
    others = sum(map(len, board.results.runs.values())) - used
    suites = ", ".join(f"`{suite}`" for suite in SUITES)
    sections.append(f"{others} records are of cells that no suite of a ranking ({suites}) has.")
    if board.results.stale:
        sections.append("Stale, made by another revision or with other values than the installed code has:")
        sections.append(table(["record", "why"], reasons(board.results.stale)))
    if board.results.refused:
        sections.append("Refused, not as their run wrote them:")
        sections.append(table(["record", "why"], reasons(board.results.refused)))
    return "\n\n".join(sections)


def reasons(found: Mapping[Path, str]) -> list[list[str]]:
    """One row per reason and cell folder."""
    grouped: dict[tuple[Path, str], list[str]] = {}
    for path, reason in found.items():
        grouped.setdefault((path.parent, reason), []).append(path.name)
    return [[f"{folder.as_posix()}: {', '.join(names)}", reason] for (folder, reason), names in grouped.items()]


def table_csv(board: Leaderboard) -> str:
    """One row per cell of all suites; scores in the order of the seeds, separated by spaces."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    header = ("meta_environment", "level", "method", "allowance", "experience", "protocol")
    header += ("budget", "fingerprint", "promised")
    header += ("n", "diverged", "mean", "low", "high", "seeds", "scores", "pinned_data", "local_changes")
    writer.writerow([*header, "wall_seconds", "updates_per_second", "parameters"])
    for ((env, level), method), cell in everything(board).cells.items():
        estimate = cell.estimate
        row = [env, level, method, *kind(method), headline_protocol(algorithm_class(method))]
        row += [cell.config.budget, cell.config.fingerprint]
        row += [len(cell.promised), len(cell.runs), cell.diverged]
        row += map(_csv, (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None))
        row += [" ".join(map(str, cell.runs)), " ".join(map(_csv, cell.scores.values()))]
        row += [cell.pinned, cell.dirty] if cell.runs else ["", ""]
        row += [_csv(cell.mean(lambda run: run.execution["wall_seconds"]))]
        row += [_csv(cell.mean(lambda run: run.execution["steps_per_second"])), parameters(cell)]
        writer.writerow(row)
    return buffer.getvalue()


def _csv(value: float | None) -> str:
    return "" if value is None else f"{value:z.6f}"
