"""Measured results in the pages about methods: a table between two marks, which `bench report` keeps up to date."""

import re
from collections.abc import Sequence
from pathlib import Path

from omrlbench.errors import BenchError
from omrlbench.leaderboard import OTHER_SUITES, Leaderboard, per_environment, promised, rankings

MARKED = re.compile(r"(<!-- scores of ([\w, ]+) -->\n)(?:.*?\n)??(<!-- end of scores -->)", re.DOTALL)


def method_pages(board: Leaderboard, out: Path) -> dict[str, str]:
    """The pages below `out`/docs/algorithms that have marks, with the tables of all rankings: path below `out` -> text.

    Raises BenchError, naming the page, where marks name methods that no ranking has, or none together.
    """
    pages, boards = {}, [board]
    for suite in OTHER_SUITES:
        boards += rankings(promised(board.results, suite)).values()
    for path in sorted((out / "docs" / "algorithms").glob("*.md")):
        text = path.read_text()
        if MARKED.search(text):
            pages[str(path.relative_to(out))] = MARKED.sub(
                lambda found, path=path: f"{found[1]}\n{scores(boards, found[2].split(', '), path)}\n\n{found[3]}", text
            )
    return pages


def scores(boards: Sequence[Leaderboard], methods: Sequence[str], path: Path) -> str:
    """The table of `methods` in the ranking that has them all."""
    for board in boards:
        if set(methods) <= set(board.methods):
            return per_environment(board, methods)
    unknown = set(methods).difference(*(board.methods for board in boards)) or methods
    raise BenchError(f"{path} asks for the scores of {', '.join(sorted(unknown))}, no row of one ranking")
