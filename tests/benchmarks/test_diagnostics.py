import numpy as np
import pytest

from omrlbench.diagnostics import correlation, embedding_diagnostics, probe_accuracy

CORNERS = np.array([[-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]])


def table(means, contexts=6, noise=0.0):
    generator = np.random.default_rng(0)
    tasks = np.repeat(np.arange(len(means)), contexts)
    return tasks, np.asarray(means, float)[tasks] + noise * generator.standard_normal((len(tasks), len(means[0])))


def test_separation_and_distance_by_hand():
    """Squared differences per dimension of the three pairs are 4, 2 and 2; standard deviations over tasks 2/sqrt(3)."""
    found = embedding_diagnostics(*table(CORNERS), parameters=CORNERS, bounded=True)
    assert found["effective_separation_rate"] == 1.0
    assert found["rms_distance"] == pytest.approx(np.sqrt(4 / 3) * np.sqrt(2))
    near = embedding_diagnostics(*table(CORNERS * [1, 0.1]), parameters=CORNERS, bounded=True)
    assert near["effective_separation_rate"] == pytest.approx(2 / 3)  # 2.02, 2 and 0.02
    assert (
        embedding_diagnostics(*table(CORNERS), parameters=CORNERS, bounded=False)["effective_separation_rate"] is None
    )


def test_uniform_codes_have_the_distance_that_the_threshold_is_made_of():
    generator = np.random.default_rng(0)
    codes = generator.uniform(-1, 1, (400, 5))
    found = embedding_diagnostics(*table(codes, contexts=2), parameters=codes, bounded=True)
    assert found["rms_distance"] == pytest.approx(np.sqrt(2 / 3), rel=0.03)
    assert 0.4 < found["effective_separation_rate"] < 0.6


def test_embeddings_that_are_the_parameters_correlate_with_them():
    generator = np.random.default_rng(0)
    parameters = generator.standard_normal((12, 3))
    assert embedding_diagnostics(*table(parameters), parameters, False)["parameter_correlation"] > 0.9
    other = generator.standard_normal((12, 3))
    assert abs(embedding_diagnostics(*table(other), parameters, False)["parameter_correlation"]) < 0.4


def test_two_tasks_have_one_distance_and_no_correlation():
    found = embedding_diagnostics(*table([[0.0], [1.0]]), np.array([[-1.0], [1.0]]), True)
    assert found["parameter_correlation"] is None and found["probe_accuracy"] == 1.0
    assert correlation(np.ones(5), np.arange(5.0)) is None


def test_the_probe_is_right_where_tasks_are_apart_and_guesses_where_they_are_not():
    apart = table([[0, 0], [5, 0], [0, 5]], contexts=40, noise=0.5)
    together = table([[0, 0], [0, 0], [0, 0]], contexts=40, noise=1.0)
    assert probe_accuracy(*apart) > 0.98
    assert probe_accuracy(*together) < 0.6


@pytest.mark.filterwarnings("error")
def test_codes_on_a_line_are_probed_without_a_warning():
    tasks, line = table(np.arange(40.0)[:, None], contexts=20, noise=0.4)
    codes = line * np.linspace(0.5, 2, 20)
    assert probe_accuracy(tasks, codes.astype(np.float32)) > 1 / 40
