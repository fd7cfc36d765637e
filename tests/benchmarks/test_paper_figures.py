"""The paper's figures from committed records: what they show, and what they say where runs are missing."""

from pathlib import Path

import numpy as np
import pytest

from omrlbench import paper_figures
from omrlbench.claims import FOCAL, VALUE_PENALTY, Side
from omrlbench.errors import BenchError
from omrlbench.paper_figures import FIGURES, Curves, Drawing, Embedding, Separation, Source, draw_figure, find_runs
from omrlbench.record import read_record
from omrlbench.suite import suite_cells

RECORDS = Path(__file__).parents[2] / "results" / "runs"
SOURCE = Source(RECORDS, "cpu")


@pytest.mark.parametrize("name", FIGURES)
def test_the_suite_that_a_figure_names_has_its_runs(name):
    for panel in FIGURES[name].panels:
        for need in panel.needs:
            promised = {config.fingerprint for _, config in suite_cells(panel.suite_of(need[0]))}
            assert SOURCE.config(need).fingerprint in promised


def test_missing_runs_are_one_line_with_the_command(tmp_path):
    message = "no run of focal_linear on cheetah_vel at the cpu budget; make some: bench sweep ablations --only "
    with pytest.raises(BenchError, match=f"^{message}algo=focal_linear,env=cheetah_vel --results-dir {tmp_path}$"):
        find_runs([Embedding("cheetah_vel", Side("focal_linear"), "ablations")], Source(tmp_path, "cpu"))
    coupled = Side("focal_coupled", changes=VALUE_PENALTY)
    command = "bench run --algo focal_coupled --env walker_params --budget smoke --set regularization=both "
    with pytest.raises(BenchError, match=command):
        find_runs([Embedding("walker_params", coupled)], Source(tmp_path, "smoke"))
    with pytest.raises(BenchError, match="unknown figure 'fig22': did you mean fig2"):
        draw_figure("fig22", RECORDS, tmp_path)


def test_a_curve_is_the_mean_over_seeds_and_tasks():
    panel = Curves("cheetah_vel", (FOCAL, Side("bc")))
    found = find_runs([panel], SOURCE)
    figure = paper_figures.draw_panels(Drawing("", (panel,)), found, SOURCE)
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "focal"]
    cell = SOURCE.config((FOCAL, "cheetah_vel")).record_path(RECORDS).parent
    curves = [read_record(path).result["curve"] for path in cell.glob("seed-?.json")]
    last = np.mean([curve[-1]["returns"] for curve in curves])
    assert len(curves) > 1 and line.get_ydata()[-1] == pytest.approx(last)
    assert line.get_xdata()[-1] == curves[0][-1]["step"]


def test_a_diverged_run_keeps_its_last_value():
    class Run:
        def __init__(self, *returns):
            self.result = {"curve": [{"step": 10 * k, "returns": [[r]]} for k, r in enumerate(returns, start=1)]}

    curves = Curves("cheetah_vel", (FOCAL,))
    steps, values = paper_figures.seeds_by_step({0: Run(1.0, 2.0, 3.0), 1: Run(5.0), 2: Run()}, curves.value)
    assert steps == [10, 20, 30]
    np.testing.assert_array_equal(values, [[1, 2, 3], [5, 5, 5]])


def test_a_figure_is_written_twice_with_equal_bytes(monkeypatch, tmp_path):
    panels = (Embedding("cheetah_vel", FOCAL), Separation("cheetah_vel", (FOCAL,), "rms_distance"))
    monkeypatch.setitem(FIGURES, "some", Drawing("Some", panels))
    one, two = (draw_figure("some", RECORDS, tmp_path / folder) for folder in ("one", "two"))
    assert [path.name for path in one] == ["paper_some.png", "paper_some.svg"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert one[1].read_text().count("<use") > 200  # 20 tasks x 10 contexts, and the seeds
