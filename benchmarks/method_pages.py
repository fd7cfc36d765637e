"""Measured results in the pages about methods: tables between two marks, which `bench report` keeps up to date."""

import re
from collections.abc import Sequence
from pathlib import Path

from omrlbench.errors import BenchError
from omrlbench.leaderboard import Leaderboard, rankings
from omrlbench.leaderboard_texts import NONE, heading, number, per_environment, table
from omrlbench.record import RunRecord
from omrlbench.suite import suite_cells
from omrlbench.verification import Results

MARKED = re.compile(
    r"(<!-- (scores|trials) of ([\w, ]+?)(?: in (\w+))? -->\n)(?:.*?\n)??(<!-- end of \2 -->)", re.DOTALL
)


def method_pages(board: Leaderboard, out: Path) -> dict[str, str]:
    """The pages below `out`/docs/algorithms that have marks, with the tables they ask for: path below `out` -> text.

    Raises BenchError, naming the page, where marks name methods that no ranking has, or none together, or that their
    suite of trials does not have.
    """
    boards = [board, *(ranked for other in board.others.values() for ranked in rankings(other).values())]

    def filled(path: Path, text: str) -> str:
        def written(marks: re.Match) -> str:
            begin, what, names, suite, end = marks.groups()
            methods = names.split(", ")
            found = scores(boards, methods, path) if what == "scores" else trials(board.results, suite, methods, path)
            return f"{begin}\n{found}\n\n{end}"

        return MARKED.sub(written, text)

    pages = {path: path.read_text() for path in sorted((out / "docs" / "algorithms").glob("*.md"))}
    return {str(path.relative_to(out)): filled(path, text) for path, text in pages.items() if MARKED.search(text)}


def scores(boards: Sequence[Leaderboard], methods: Sequence[str], path: Path) -> str:
    """The table of `methods` in the ranking that has them all."""
    for board in boards:
        if set(methods) <= set(board.methods):
            return per_environment(board, methods)
    unknown = set(methods).difference(*(board.methods for board in boards)) or methods
    raise BenchError(f"{path} asks for the scores of {', '.join(sorted(unknown))}, no row of one ranking")


def remark(run: RunRecord) -> str:
    return " (diverged)" if run.status == "diverged" else ""


def trials(results: Results, suite: str, methods: Sequence[str], path: Path) -> str:
    """The scores of the runs of `methods` in `suite`, in the order of their seeds, by values and column."""
    cells = [(variant, config) for variant, config in suite_cells(suite) if config.algo in methods]
    rows: dict[tuple[str, str], dict[tuple[str, str], list[str]]] = {}
    for variant, config in cells:
        run = results.runs.get(config.record_path("").parent, {}).get(config.seed)
        found = rows.setdefault((config.algo, variant), {}).setdefault((config.env, config.level), [])
        found.append(NONE if run is None else number(run.result["score"], 2) + remark(run))
    if unknown := set(methods).difference(config.algo for _, config in cells):
        raise BenchError(f"{path} asks for trials of {', '.join(sorted(unknown))}, which {suite} does not have")
    columns = list(dict.fromkeys((config.env, config.level) for _, config in cells))
    return table(
        ["method", "values", *map(heading, columns)],
        ([*names, *(", ".join(found.get(column, [NONE])) for column in columns)] for names, found in rows.items()),
    )
