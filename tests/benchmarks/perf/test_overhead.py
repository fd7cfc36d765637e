"""The parts that the script measures are those of a real run."""

import sys

from click.testing import CliRunner

from omrlbench.perf import overhead

ENV = "sparse_point_robot"


def test_script_prints_a_row_per_measurement(monkeypatch, data_dir):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(data_dir))
    monkeypatch.setattr(overhead, "ENVS", (ENV,))
    monkeypatch.setattr(overhead, "MEMORY_ENV", ENV)
    monkeypatch.setattr(overhead, "UPDATES", 2)
    done = CliRunner().invoke(overhead.main, ["--rounds", "1"])
    assert done.exit_code == 0, done.output
    rows = [line.split("|")[1].strip() for line in done.output.splitlines() if line.startswith("| ")]
    assert rows == [
        "what",
        "`import omrlbench`",
        "`bench --help`",
        f"peak memory of a run of {ENV}",
        f"evaluations of a run of {ENV}",
    ]


def test_start_up_is_the_time_until_the_process_ends():
    assert 0.3 < overhead.start_up([sys.executable, "-c", "import time; time.sleep(0.3)"], rounds=1) < 5
