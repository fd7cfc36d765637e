"""What a suite would take: records first, then measured updates, and what nobody knows is said."""

import re
from pathlib import Path

import pytest

from omrlbench.cli import main
from omrlbench.config import resolve
from omrlbench.cost import gpu_seconds, run_costs, update_seconds
from omrlbench.perf.run_cost import table
from omrlbench.sweep import Cell

ROOT = Path(__file__).parents[2]


def plan(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["sweep", *arguments, "--dry-run"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_every_run_of_the_suite_core_has_a_cost_and_those_that_learn_take_hours():
    for env, methods in run_costs()["runs"].items():
        for algo in methods:
            seconds = update_seconds(resolve(env, algo, budget="paper"), "cpu")
            assert (seconds > 1800) == (algo not in ("do_nothing", "random_policy", "expert_policy")), (env, algo)
    assert update_seconds(resolve("point_robot", "focal", budget="cpu"), "cpu") is None


def test_an_update_on_a_gpu_is_its_operations_and_its_products():
    assert gpu_seconds({"operations": 1000, "product_flops": 2 * 10**10}) == pytest.approx(0.012)


def test_the_plan_of_a_cluster_says_hours_disk_and_what_is_assumed(tmp_path, capsys):
    places = ["--results-dir", str(tmp_path), "--data-dir", str(tmp_path)]
    out = plan(capsys, "core", "--budget", "paper", "--only", "algo=focal,env=cheetah_vel", *places)
    (hours,) = re.findall(r"^5 of 5 cells to run: ([0-9.]+) core-hours$", out, re.MULTILINE)
    config = resolve("cheetah_vel", "focal", budget="paper")
    assert float(hours) == pytest.approx(5 * update_seconds(config, "cpu") / 3600, 0.01)
    (hours,) = re.findall(r"^on GPUs .* ([0-9.]+) GPU-hours: 10 microseconds", out, re.MULTILINE)
    assert float(hours) == pytest.approx(5 * update_seconds(config, "cuda") / 3600, 0.05)
    assert "of the updates alone, measured " in out
    assert re.search(r"^disk: at most 0\.0\d GB for runs; 0 of 2 datasets are made", out, re.MULTILINE)
    out = plan(capsys, "core", "--budget", "paper", "--device", "cuda", "--only", "algo=focal,env=cheetah_vel", *places)
    assert " GPU-hours\n" in out and "5 of these times are estimates: 10 microseconds for each operation" in out


def test_what_nobody_measured_is_unknown(tmp_path, capsys):
    out = plan(capsys, "smoke", "--results-dir", str(tmp_path), "--data-dir", str(tmp_path))
    assert "10 of 10 cells to run: 0.0 core-hours and 10 unknown\n" in out


def test_begun_cells_are_under_way(tmp_path, capsys):
    config = resolve("sparse_point_robot", "bc", budget="smoke")
    begun = Cell("default", config, config.record_path(tmp_path))
    begun.path.parent.mkdir(parents=True)
    begun.path.with_suffix(".checkpoint").touch()
    begun.path.with_suffix(".csv").write_text("step,split,score\n50,validation,0.25\n")
    with pytest.raises(SystemExit):
        main(["status", "smoke", "--only", "algo=bc", "--results-dir", str(tmp_path)])
    assert re.search(r" 0 of 1 +1 begun \(50%\)", capsys.readouterr().out)


def test_the_documented_table_is_what_was_measured():
    assert table(run_costs()) in (ROOT / "docs" / "scaling.md").read_text()


def test_a_plan_refuses_what_the_sweep_would_refuse(capsys):
    for options, message in (
        (["--launcher", "rya"], "unknown launcher 'rya': did you mean ray? choose from local, ray, slurm"),
        (["--partition", "main"], "--partition is for --launcher slurm, not local"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["sweep", "smoke", *options, "--dry-run"])
        assert stop.value.code == 2 and capsys.readouterr().err == f"bench: {message}\n"
