import pytest

from omrlbench.errors import BenchError
from omrlbench.suite import suite_cells, suite_names


def test_cells_are_the_product_of_environments_and_seeds():
    cells = suite_cells("point_robots")
    assert {variant for variant, _ in cells} == {"default"}
    assert sorted((config.env, config.seed) for _, config in cells) == sorted(
        (env, seed) for env in ("sparse_point_robot", "point_robot", "point_robot_wind") for seed in (0, 1, 2)
    )
    assert {config.eval_split for _, config in cells} == {"test"}


def test_variants_change_the_configuration_and_a_comparison_stays_off_the_test_tasks():
    cells = dict(suite_cells("focal_stability"))
    assert cells["value penalty too"].algorithm.regularization == "both"
    assert cells["constant learning rates"].training.learning_rate_decay == "none"
    assert len({config.fingerprint for config in cells.values()}) == len(cells)
    assert {(config.eval_split, config.seed) for config in cells.values()} == {("validation", 100)}


@pytest.mark.parametrize("suite", suite_names())
def test_every_shipped_suite_resolves(suite):
    assert suite_cells(suite)


def test_an_unknown_suite_gets_a_suggestion():
    with pytest.raises(BenchError, match="did you mean point_robots"):
        suite_cells("point_robot")
