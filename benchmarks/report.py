"""The files of a report: BENCHMARKS.md, the csv, figures, scores in the pages about methods; the page for a browser."""

from pathlib import Path

from omrlbench.html_report import page
from omrlbench.leaderboard import Leaderboard
from omrlbench.leaderboard_figures import draw_all
from omrlbench.leaderboard_texts import texts
from omrlbench.method_pages import method_pages
from omrlbench.record import write_atomic


def write_report(board: Leaderboard, out: Path) -> list[Path]:
    """Write all but the page into `out`; the paths."""
    drawn, files = draw_all(board, out / "results" / "figures"), report_texts(board, out)
    for path, text in files.items():
        write_atomic(path, text.encode())
    return [*files, *drawn]


def stale_texts(board: Leaderboard, out: Path) -> list[Path]:
    """The files in `out` whose text is not what the records give."""
    return [path for path, text in report_texts(board, out).items() if not path.exists() or path.read_text() != text]


def report_texts(board: Leaderboard, out: Path) -> dict[Path, str]:
    return {out / name: text for name, text in (texts(board) | method_pages(board, out)).items()}


def write_page(board: Leaderboard, results_dir: Path, out: Path) -> Path:
    """Write the page about the records in `results_dir` into `out`; its path."""
    path = out / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page(board, results_dir).encode())
    return path
