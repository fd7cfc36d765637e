"""What is ranked with what, and where; no texts."""

from dataclasses import replace
from pathlib import Path

import pytest

from omrlbench.config import resolve
from omrlbench.envs.references import reference_returns
from omrlbench.errors import BenchError
from omrlbench.leaderboard import SUITES, UNTRAINED, Cell, Leaderboard, leaderboard, promised, rankings
from omrlbench.record import read_record
from omrlbench.registry import kind
from omrlbench.suite import suite_cells
from omrlbench.verification import Results

ENV = "sparse_point_robot"
COLUMN = (ENV, "expert")


def path_of(runs: Path, algo: str = "do_nothing", seed: int = 0) -> Path:
    return resolve(ENV, algo, seed=seed).record_path(runs)


def board_with(scores: dict[str, list[float]], record) -> Leaderboard:
    """One column: methods with the scores of seeds 0, 1, ..."""
    cells = {}
    for algo, values in scores.items():
        runs = {seed: replace(record, result=record.result | {"score": v}) for seed, v in enumerate(values)}
        cells[COLUMN, algo] = Cell(resolve(ENV, algo), (0, 1, 2), runs)
    return Leaderboard(cells, Results())


@pytest.mark.parametrize(
    "oracle, without, verdict",
    [
        ([0.9, 0.8, 0.85], [0.2, 0.3, 0.25], None),
        ([0.9, 0.2, 0.5], [0.2, 0.7, 0.4], "no: the gap may be 0"),
        ([0.99, 1.0, 0.995], [0.92, 0.93, 0.925], "no: no_context is above 0.9"),
        ([0.9], [0.2], "not known yet"),
        ([], [0.2, 0.3], "not known yet"),
    ],
)
def test_what_makes_an_environment_informative(finished, oracle, without, verdict):
    record = read_record(path_of(finished))
    board = board_with({"oracle_task": oracle, "no_context": without, "do_nothing": [0.1]}, record)
    assert board.uninformative(COLUMN) == verdict
    assert board.headline == ([] if verdict else [COLUMN])


def test_one_expert_for_all_tasks_can_make_an_environment_uninformative(finished, monkeypatch):
    record = read_record(path_of(finished))
    board = board_with({"oracle_task": [0.9, 0.8, 0.85], "no_context": [0.2, 0.3, 0.25]}, record)
    references = reference_returns(ENV, "test")
    returns = references.random + 0.95 * (references.expert - references.random)
    monkeypatch.setattr("omrlbench.leaderboard.reference_returns", lambda *_: replace(references, one_expert=returns))
    assert board.uninformative(COLUMN) == "no: one expert is above 0.9" and board.headline == []


def test_two_task_environments_never_reach_the_headline(finished):
    record = read_record(path_of(finished))
    board = board_with({"oracle_task": [0.9, 0.8, 0.9], "no_context": [0.2, 0.3, 0.2]}, record)
    column = ("cheetah_fwd_back", "mixed")
    both = Leaderboard(board.cells | {(column, algo): cell for (_, algo), cell in board.cells.items()}, Results())
    assert both.uninformative(column) is None and both.headline == [COLUMN]


def test_methods_of_different_kinds_are_never_ranked_together(monkeypatch):
    found = {suite: rankings(promised(Results(), suite)) for suite in SUITES}
    for boards in found.values():
        for one, board in boards.items():
            assert {kind(method) for method in set(board.methods) - set(UNTRAINED)} == {one}
            assert set(UNTRAINED) < set(board.methods)
    assert {suite: list(boards) for suite, boards in found.items()} == {
        "core": [("context", "logs")],
        "single_task": [("dataset", "logs")],
        "rac": [("dataset", "logs")],
        "rac_expert": [("dataset", "logs")],
        "online": [("context", e) for e in ("interaction", "logs and reward-free interaction", "logs")],
    }
    with pytest.raises(BenchError, match="^suite online ranks methods together that see context from interaction and"):
        leaderboard(Results(), "online")
    cells = [*suite_cells("core"), *suite_cells("single_task")]
    monkeypatch.setattr("omrlbench.leaderboard.suite_cells", lambda suite: cells)
    with pytest.raises(BenchError, match="^suite core ranks .* see context from logs and dataset from logs, give each"):
        leaderboard(Results())


def test_methods_with_fewer_seeds_stand_below_those_with_more(finished):
    record = read_record(path_of(finished))
    scores = {"batch_pearl": [0.1] * 3, "contextual_bcq": [0.99], "bc": [0.95] * 3, "focal": [0.8] * 3}
    assert list(board_with(scores, record).aggregates([COLUMN])) == ["focal", "batch_pearl", "contextual_bcq", "bc"]


@pytest.mark.parametrize(
    ("suite", "said"), [("trials", "has variants"), ("level_shift", "has several levels of sparse_point_robot")]
)
def test_a_suite_that_cannot_be_one_table_has_no_ranking(suite, said):
    with pytest.raises(BenchError, match=f"^suite {suite} {said}, which have no ranking"):
        leaderboard(Results(), suite)
