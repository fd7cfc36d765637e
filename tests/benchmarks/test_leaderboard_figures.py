"""What the leaderboard's figures show of real records whose scores are set by the test."""

from dataclasses import replace

from omrlbench.config import resolve
from omrlbench.leaderboard import Cell, Leaderboard
from omrlbench.leaderboard_figures import aggregate_intervals, improvement
from omrlbench.record import read_record
from omrlbench.verification import Results

ENV = "sparse_point_robot"


def board(finished, scores: dict[str, list[float]]) -> Leaderboard:
    """One column: methods with the scores of seeds 0, 1, ..., and reference rows without any."""
    record = read_record(resolve(ENV, "do_nothing").record_path(finished))
    cells = {}
    for algo, values in ({"oracle_task": [], "no_context": []} | scores).items():
        runs = {seed: replace(record, result=record.result | {"score": v}) for seed, v in enumerate(values)}
        cells[(ENV, "expert"), algo] = Cell(resolve(ENV, algo), (0, 1, 2), runs)
    return Leaderboard(cells, Results())


def labels(axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_a_single_seed_has_no_probability_of_improvement(finished):
    found = board(finished, {"focal": [0.8] * 3, "contextual_bcq": [0.99], "bc": [0.7] * 3})
    assert labels(improvement(found).axes[0]) == ["bc (n = 3)"]


def test_aggregates_name_n_and_keep_every_mean_in_sight(finished):
    found = board(finished, {"focal": [0.8] * 3, "batch_pearl": [-2.0, -2.2]})
    axes = aggregate_intervals(found).axes[-3:]
    assert labels(axes[0]) == ["focal (n = 3)", "batch_pearl (n = 2)"]
    low, high = axes[0].get_xlim()
    assert low < -2.1 and high > 3.1  # the optimality gap
