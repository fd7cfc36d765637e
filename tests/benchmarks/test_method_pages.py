from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from omrlbench.errors import BenchError
from omrlbench.leaderboard import SUITES, leaderboard, promised
from omrlbench.leaderboard_texts import shown_method
from omrlbench.method_pages import MARKED, method_pages
from omrlbench.suite import suite_cells
from omrlbench.verification import Results

ROOT = Path(__file__).parents[2]


@dataclass
class Run:
    score: float
    status: str = "finished"

    @property
    def result(self):
        return {"score": self.score}


@pytest.fixture
def page(tmp_path) -> Path:
    folder = tmp_path / "docs" / "algorithms"
    folder.mkdir(parents=True)
    return folder / "mine.md"


def test_a_table_is_written_between_the_marks_and_replaced_the_next_time(page, tmp_path):
    marks = [f"<!-- scores of {names} -->\n<!-- end of scores -->\n\n" for names in ("bc, mbml", "smac")]
    page.write_text(f"# Mine\n\n{marks[0]}Between.\n\n{marks[1]}The end.\n")
    board = leaderboard(Results())
    (text,) = method_pages(board, tmp_path).values()
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert rows == ["method", "---", shown_method("bc"), "mbml", "method", "---", "smac"]
    assert text.count("Between.") == 1
    assert text.startswith("# Mine\n") and text.endswith("\nThe end.\n")
    page.write_text(text)
    assert method_pages(board, tmp_path) == {"docs/algorithms/mine.md": text}


def test_marks_with_a_method_that_has_no_row_are_an_error(page, tmp_path):
    page.write_text("<!-- scores of bc, nonsense -->\n\n<!-- end of scores -->\n")
    with pytest.raises(BenchError, match="mine.md asks for the scores of nonsense"):
        method_pages(leaderboard(Results()), tmp_path)


def test_the_pages_about_methods_show_every_row_of_the_leaderboard():
    shown = [
        names
        for page in (ROOT / "docs/algorithms").glob("*.md")
        for _, what, names, *_ in MARKED.findall(page.read_text())
        if what == "scores"
    ]
    methods = {name for names in shown for name in names.split(", ")}
    assert methods == {method for suite in SUITES for method in promised(Results(), suite).methods}


def test_marks_with_methods_of_different_rankings_are_an_error(page, tmp_path):
    page.write_text("<!-- scores of focal, single_task_iql -->\n\n<!-- end of scores -->\n")
    with pytest.raises(BenchError, match="asks for the scores of focal, single_task_iql, no row of one ranking"):
        method_pages(leaderboard(Results()), tmp_path)
    page.write_text("<!-- scores of pearl, smac -->\n\n<!-- end of scores -->\n")
    with pytest.raises(BenchError, match="asks for the scores of pearl, smac, no row of one ranking"):
        method_pages(leaderboard(Results()), tmp_path)
    page.write_text("<!-- scores of single_task_iql, do_nothing -->\n<!-- end of scores -->\n")
    (text,) = method_pages(leaderboard(Results()), tmp_path).values()
    assert "| single_task_iql |" in text and "walker_params" in text


def test_a_table_of_trials_has_the_scores_of_a_suite_by_values_and_environment(page, tmp_path):
    configs = [(variant, c) for variant, c in suite_cells("online_trials") if c.algo == "smac_offline"]
    found = (Run(0.0, "diverged"), Run(0.125))
    runs = {c.record_path("").parent: {c.seed: run} for run, (_, c) in zip(found, configs, strict=False)}
    page.write_text("<!-- trials of smac_offline in online_trials -->\n<!-- end of trials -->\n")
    board = leaderboard(Results())
    (text,) = method_pages(replace(board, results=replace(board.results, runs=runs)), tmp_path).values()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    columns = list(dict.fromkeys((c.env, c.level) for _, c in configs))
    assert rows[0] == ["method", "values", *(f"{env}<br>{level} data" for env, level in columns)]
    assert {("cheetah_vel", "expert"), ("cheetah_vel", "mixed")} < set(columns)
    scores = ("0.00 (diverged)", "0.12")
    assert rows[2:4] == [
        ["smac_offline", configs[k][0], score, *"–" * (len(columns) - 1)] for k, score in enumerate(scores)
    ]
    assert len(rows) == 2 + len(dict.fromkeys(variant for variant, _ in configs))


def test_trials_of_a_method_that_the_suite_does_not_have_are_an_error(page, tmp_path):
    page.write_text("<!-- trials of bc in online_trials -->\n<!-- end of trials -->\n")
    with pytest.raises(BenchError, match="asks for trials of bc, which online_trials does not have"):
        method_pages(leaderboard(Results()), tmp_path)
