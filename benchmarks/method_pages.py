"""Measured results in the pages about methods: a table between two marks, which `bench report` keeps up to date."""

import re
from pathlib import Path

from omrlbench.errors import BenchError
from omrlbench.leaderboard import Leaderboard, per_environment

MARKED = re.compile(r"(<!-- scores of ([\w, ]+) -->\n)(?:.*?\n)?(<!-- end of scores -->)", re.DOTALL)


def method_pages(board: Leaderboard, out: Path) -> dict[str, str]:
    """The pages below `out`/docs/algorithms that have marks, with the tables of `board`: path below `out` -> text.

    Raises BenchError, naming the page, where marks name a method that the leaderboard does not have.
    """
    pages = {}
    for path in sorted((out / "docs" / "algorithms").glob("*.md")):
        text = path.read_text()
        unknown = {name for _, names, _ in MARKED.findall(text) for name in names.split(", ")} - {*board.methods}
        if unknown:
            raise BenchError(f"{path} asks for the scores of {', '.join(sorted(unknown))}, no row of the leaderboard")
        if MARKED.search(text):
            pages[str(path.relative_to(out))] = MARKED.sub(
                lambda found: f"{found[1]}\n{per_environment(board, found[2].split(', '))}\n\n{found[3]}", text
            )
    return pages
