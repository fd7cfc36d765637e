"""The leaderboard: the runs that a suite promises, as a pure function of the records of a results folder.

Rows are methods, columns meta-environments; a cell holds the runs of one fingerprint, so revisions are never mixed.
Methods that may see different things of a test task, or learn from different things, are never in one ranking.
`leaderboard_texts` writes it up, `leaderboard_figures` draws it, `html_report` makes the page.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from omrlbench.config import RunConfig
from omrlbench.data.identity import PINNED
from omrlbench.envs.references import normalized_score, reference_returns
from omrlbench.envs.registry import get_meta_env
from omrlbench.errors import BenchError
from omrlbench.record import RunRecord
from omrlbench.registry import kind
from omrlbench.stats import (
    Estimate,
    ScoreMatrix,
    aggregates,
    mean_interval,
    paired_difference,
    score_matrix,
)
from omrlbench.suite import suite_cells
from omrlbench.verification import Results

SUITE = "core"
OTHER_SUITES = ("single_task", "rac", "rac_expert", "online")  # that have rankings of their own, each a section
SUITES = (SUITE, *OTHER_SUITES)
UNTRAINED = ("random_policy", "do_nothing", "expert_policy")  # learn from no data, so they stand in every ranking
REFERENCE_ROWS = ("bc", "no_context", "oracle_task", "single_task_bc", *UNTRAINED)
NO_CONTEXT_LIMIT = 0.9  # a score without adaptation that leaves next to nothing for it


@dataclass(frozen=True)
class Cell:
    """One method in one meta-environment: the seeds that are promised, and the runs there are, in order of seeds."""

    config: RunConfig  # of any seed
    promised: tuple[int, ...]
    runs: dict[int, RunRecord]

    @property
    def scores(self) -> dict[int, float]:
        return {seed: run.result["score"] for seed, run in self.runs.items()}

    @property
    def diverged(self) -> int:
        return sum(run.status == "diverged" for run in self.runs.values())

    @property
    def pinned(self) -> bool:
        return all(run.config["dataset"]["state"] == PINNED for run in self.runs.values())

    @property
    def dirty(self) -> bool:
        """Whether a run was made with local changes, or outside a clone, which cannot be told."""
        return any(run.execution["git"] is None or run.execution["git"]["dirty"] for run in self.runs.values())

    @property
    def estimate(self) -> Estimate | None:
        return mean_interval(list(self.scores.values())) if self.runs else None

    def mean(self, value: Callable[[RunRecord], float | None]) -> float | None:
        """Of a value over the runs, None where one lacks it."""
        values = [value(run) for run in self.runs.values()]
        return sum(values) / len(values) if values and None not in values else None


@dataclass(frozen=True)
class Leaderboard:
    """`cells` of `suite` by (column, method), complete or not; a column is a (meta-environment, level)."""

    cells: dict[tuple[tuple[str, str], str], Cell]
    results: Results
    suite: str = SUITE

    @cached_property
    def columns(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys(column for column, _ in self.cells))

    @cached_property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(method for _, method in self.cells))

    @property
    def budget(self) -> str:
        return ", ".join(sorted({cell.config.budget for cell in self.cells.values()}))

    def scores(self, column: tuple[str, str], method: str) -> dict[int, float]:
        cell = self.cells.get((column, method))
        return cell.scores if cell else {}

    def matrix(self, method: str, columns: Sequence[tuple[str, str]]) -> ScoreMatrix:
        promised = {seed for column in columns for seed in self.cells[column, method].promised}
        return score_matrix({column[0]: self.scores(column, method) for column in columns}, promised)

    def holes(self, method: str) -> list[tuple[int, str]]:
        """(seed, meta-environment) of every promised run that is missing."""
        matrix = self.matrix(method, self.columns)
        promised = {column[0]: self.cells[column, method].promised for column in self.columns}
        return [(seed, env) for seed, env in matrix.holes if seed in promised[env]]

    def gap(self, column: tuple[str, str]) -> Estimate | None:
        """What perfect inference of the task gains: `oracle_task` minus `no_context`, paired over seeds."""
        return paired_difference(self.scores(column, "oracle_task"), self.scores(column, "no_context"))

    def uninformative(self, column: tuple[str, str]) -> str | None:
        """Why a column does not tell how well methods adapt, None where it does."""
        gap, without, told = self.gap(column), self.cells[column, "no_context"].estimate, one_expert(column[0])
        if told is not None and told > NO_CONTEXT_LIMIT:
            return f"no: one expert is above {NO_CONTEXT_LIMIT}"
        if gap is None or without is None or gap.low is None:
            return "not known yet"
        if without.value > NO_CONTEXT_LIMIT:
            return f"no: no_context is above {NO_CONTEXT_LIMIT}"
        return "no: the gap may be 0" if gap.low <= 0 else None

    def aggregates(self, columns: Sequence[tuple[str, str]]) -> dict[str, dict[str, Estimate]]:
        """By method, the aggregates over `columns` of its complete seeds, best IQM first.

        Methods with fewer seeds than others come after those, reference rows last.
        """
        if tuple(columns) not in self.known_aggregates:
            rows = {method: self.matrix(method, columns).rows for method in self.methods if columns}
            found = {method: aggregates(scores) for method, scores in rows.items() if len(scores)}
            most = max((len(scores) for scores in rows.values()), default=0)
            keys = {
                method: (method in REFERENCE_ROWS, len(rows[method]) < most, -estimates["IQM"].value)
                for method, estimates in found.items()
            }
            order = sorted(found, key=keys.__getitem__)
            self.known_aggregates[tuple(columns)] = {method: found[method] for method in order}
        return self.known_aggregates[tuple(columns)]

    @cached_property
    def known_aggregates(self) -> dict[tuple[tuple[str, str], ...], dict[str, dict[str, Estimate]]]:
        return {}

    @cached_property
    def others(self) -> dict[str, "Leaderboard"]:
        """Over the same results, all cells of each other suite that has rankings."""
        return {suite: promised(self.results, suite) for suite in OTHER_SUITES}

    @cached_property
    def headline(self) -> list[tuple[str, str]]:
        """The columns that are informative about adaptation and have held-out tasks."""
        return [column for column in self.columns if held_out(column[0]) and not self.uninformative(column)]


def leaderboard(results: Results, suite: str = SUITE) -> Leaderboard:
    """The ranking of `suite`. Raises BenchError for one that would rank methods of different kinds."""
    board = promised(results, suite)
    if len(kinds := rankings(board)) > 1:
        named = " and ".join(f"{allowance} from {experience}" for allowance, experience in kinds)
        raise BenchError(f"suite {suite} ranks methods together that see {named}, give each kind its own suite")
    return board


def promised(results: Results, suite: str) -> Leaderboard:
    """All cells of `suite`; `rankings` parts them into what may be ranked.

    Raises BenchError for a suite with variants, or with several levels of a meta-environment.
    """
    found = compared(results, suite)
    cells = {((cell.config.env, cell.config.level), cell.config.algo): cell for _, cell in found}
    if len(found) > len(cells):
        raise BenchError(f"suite {suite} has variants, which have no ranking")
    levels = Counter(env for env, _ in dict.fromkeys(column for column, _ in cells))
    if several := [env for env, count in levels.items() if count > 1]:
        raise BenchError(f"suite {suite} has several levels of {', '.join(several)}, which have no ranking together")
    return Leaderboard(cells, results, suite)


def compared(results: Results, suite: str) -> list[tuple[str, Cell]]:
    """(variant, cell) for all cells of any suite, in its order."""
    seeds: dict[tuple[str, Path], list[RunConfig]] = {}
    for variant, config in suite_cells(suite):
        seeds.setdefault((variant, config.record_path("").parent), []).append(config)
    return [
        (variant, Cell(configs[0], tuple(c.seed for c in configs), dict(sorted(results.runs.get(folder, {}).items()))))
        for (variant, folder), configs in seeds.items()
    ]


def rankings(board: Leaderboard) -> dict[tuple[str, str], Leaderboard]:
    """`board` in parts, by the kind of their methods, in the order of the suite; the untrained are in all of them."""
    kinds = {method: kind(method) for method in board.methods if method not in UNTRAINED}
    return {
        one: replace(board, cells={key: cell for key, cell in board.cells.items() if kinds.get(key[1], one) == one})
        for one in dict.fromkeys(kinds.values())
    }


def everything(board: Leaderboard) -> Leaderboard:
    """The cells of all suites; its methods are not to be ranked together."""
    cells = dict(board.cells)
    for other in board.others.values():
        cells |= other.cells
    return replace(board, cells=cells)


def one_expert(env: str) -> float | None:
    """The score of the expert that is told the same training task everywhere, None where it was not measured."""
    found = reference_returns(env, "test").one_expert
    return None if found is None else normalized_score(env, "test", found)


def held_out(env: str) -> bool:
    splits = get_meta_env(env).tasks.splits
    return not set(splits["train"]) & set(splits["test"])
