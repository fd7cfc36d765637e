"""Sweeps on real cells of the smoke budget: skipping, failing, being killed, and working side by side."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import click
import pytest

from omrlbench.cli import main
from omrlbench.commands.suites import key_values
from omrlbench.config import resolve
from omrlbench.cost import expected_seconds, update_seconds
from omrlbench.errors import BenchError
from omrlbench.launchers.local import LocalLauncher, core_groups
from omrlbench.launchers.worker import Work
from omrlbench.record import read_record, write_record
from omrlbench.sweep import Cell, find_cells, sweep


def cell(algo, results_dir, *overrides, seed=0):
    config = resolve("sparse_point_robot", algo, budget="smoke", seed=seed, overrides=overrides)
    return Cell("default", config, config.record_path(results_dir))


def run(cells, results_dir, data_dir, workers=2):
    for one in cells:
        one.look()
    sweep(cells, LocalLauncher(Work(results_dir, data_dir, ["bench", "sweep"]), workers))
    return [one.state for one in cells]


def test_a_sweep_runs_what_has_no_record_and_goes_on_after_a_failure(tmp_path, data_dir):
    good, bad = cell("do_nothing", tmp_path), cell("bc", tmp_path)
    bad.config = replace(bad.config, dataset="0" * 64)  # of a recipe that no data have
    bad.path = bad.config.record_path(tmp_path)
    assert run([bad, good], tmp_path, data_dir) == ["failed", "finished"]
    assert "made by another recipe" in bad.reason and not bad.path.exists()
    assert good.score == read_record(good.path).result["score"]
    written = good.path.stat().st_mtime_ns
    assert run([cell("do_nothing", tmp_path)], tmp_path, data_dir) == ["finished"]
    assert good.path.stat().st_mtime_ns == written


def test_a_killed_worker_fails_its_cell_and_the_same_sweep_completes_it_equally(tmp_path, data_dir):
    undisturbed = cell("bc", tmp_path / "whole", "checkpoint_interval=10")
    assert run([undisturbed], tmp_path / "whole", data_dir) == ["finished"]

    killed = cell("bc", tmp_path / "killed", "checkpoint_interval=10")
    checkpoint = killed.path.with_suffix(".checkpoint")

    def kill(changed):
        if checkpoint.exists() and not kill.done:
            kill.done = True
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    kill.done = False
    sweep([killed], LocalLauncher(Work(tmp_path / "killed", data_dir, ["bench", "sweep"]), 1), kill)
    assert killed.state == "failed" and killed.reason == "its process ended with exit code -9"
    again = cell("bc", tmp_path / "killed", "checkpoint_interval=10")
    assert run([again], tmp_path / "killed", data_dir) == ["finished"]
    first, second = read_record(undisturbed.path), read_record(again.path)
    assert first.result == second.result and first.config == second.config
    assert len(second.execution["sittings"]) == 2


def test_an_error_ends_the_workers_which_save(tmp_path, data_dir):
    interrupted = cell("bc", tmp_path, "checkpoint_interval=10")
    checkpoint = interrupted.path.with_suffix(".checkpoint")

    def fail(changed):
        if checkpoint.exists():
            raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone"):
        sweep([interrupted], LocalLauncher(Work(tmp_path, data_dir, ["bench", "sweep"]), 1), fail)
    assert not multiprocessing.active_children() and checkpoint.exists()


def start(results_dir, data_dir, *more, **options):
    program = "import sys; from omrlbench.cli import main; main(sys.argv[1:])"
    places = ["--results-dir", str(results_dir), "--data-dir", str(data_dir)]
    command = [sys.executable, "-c", program, "sweep", "smoke", *more, "--workers", "1", *places]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_for_training(folder):
    """Until the first stage's checkpoint is there, which is taken away: a later one shows that the worker saved."""
    deadline = time.monotonic() + 300
    while not (found := list(folder.rglob("*.checkpoint"))) and time.monotonic() < deadline:
        time.sleep(0.01)
    found[0].unlink()


def test_an_interrupted_sweep_says_so_and_its_worker_saves(tmp_path, data_dir):
    process = start(tmp_path, data_dir, "--only", "algo=mbml")
    wait_for_training(tmp_path)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "the same command goes on" in err and list(tmp_path.rglob("*.checkpoint"))
    process = start(tmp_path, data_dir, "--only", "algo=mbml")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "1 cells: 1 finished" in out, out + err


def test_ctrl_c_reaches_the_sweep_alone_and_its_worker_saves(tmp_path, data_dir):
    """A terminal sends it to all processes."""
    process = start(tmp_path, data_dir, "--only", "algo=mbml", start_new_session=True)
    wait_for_training(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "bench: stopped, nothing is lost; the same command goes on\n", out + err
    assert list(tmp_path.rglob("*.checkpoint"))


def test_two_sweeps_at_once_run_every_cell_once(tmp_path, data_dir):
    processes = [start(tmp_path, data_dir, "--only", f"algo={algo}") for algo in ("bc", "bc")]
    ended = [process.communicate(timeout=180) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    (record,) = tmp_path.rglob("seed-*.json")
    assert len(read_record(record).execution["sittings"]) == 1


def test_a_results_folder_that_cannot_be_is_one_line(tmp_path, capsys):
    """Before any cell runs; one that cannot write later says so as its reason."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "smoke", "--results-dir", str(file)])
    assert stop.value.code == 1 and capsys.readouterr().err == f"bench: cannot use {file}: File exists\n"
    news = Work(file, None, ["bench"]).run(cell("bc", file).config, lambda news: None)
    assert news["state"] == "failed" and re.match(rf"cannot use {file}/.*: Not a directory$", news["reason"])


def test_only_takes_several_values_of_a_key_and_values_with_commas():
    assert key_values(["algo=bc, env=cheetah_vel", "algo=focal", "variant=policy, alpha 10"]) == {
        "algo": ["bc", "focal"],
        "env": ["cheetah_vel"],
        "variant": ["policy, alpha 10"],
    }
    with pytest.raises(click.UsageError, match="--only takes key=value, not 'focal'"):
        key_values(["focal"])


def test_cells_can_be_chosen(tmp_path):
    cells = find_cells("core", tmp_path, {"algo": ["focal", "bc"], "env": ["cheetah_vel"]})
    assert [(c.config.algo, c.config.env, c.config.seed) for c in cells] == [
        (algo, "cheetah_vel", k) for algo in ("focal", "bc") for k in range(5)
    ]
    with pytest.raises(BenchError, match="no cell of core has algo=fokal, there are .*focal"):
        find_cells("core", tmp_path, {"algo": ["focal", "fokal"]})
    with pytest.raises(BenchError, match="--only takes env, algo, level, seed and variant, not 'budget'"):
        find_cells("core", tmp_path, {"budget": ["cpu"]})


def test_a_damaged_record_is_named_and_the_others_are_looked_at(tmp_path, data_dir, capsys):
    damaged, whole = find_cells("smoke", tmp_path)[:2]
    damaged.path.parent.mkdir(parents=True)
    damaged.path.write_text("{")
    run([whole], tmp_path, data_dir)
    for command in (["status", "smoke"], ["list", "suites"]):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--results-dir", str(tmp_path)])
        out, err = capsys.readouterr()
        assert stop.value.code == 1 and err.count(f"failed: {damaged.name}: {damaged.path} is not a run record") == 1
        assert re.search(r"^smoke +\d+ +1 *$" if command[0] == "list" else r" 1 of 1 ", out, re.MULTILINE), out
    again = find_cells("smoke", tmp_path)
    assert [cell.state for cell in again[:3]] == ["failed", "finished", "queued"]


def test_estimates_come_from_records(tmp_path, data_dir):
    done, like, other = cell("bc", tmp_path), cell("bc", tmp_path, seed=1), cell("focal", tmp_path)
    assert expected_seconds([like], tmp_path) == {}
    run([done], tmp_path, data_dir)
    seconds = read_record(done.path).execution["wall_seconds"]
    assert expected_seconds([done, like, other], tmp_path) == {1: (seconds, True), 2: (seconds, True)}


def test_measured_updates_come_before_records_of_other_methods(tmp_path, data_dir):
    done = cell("bc", tmp_path)
    run([done], tmp_path, data_dir)
    long = resolve("sparse_point_robot", "focal", budget="paper")
    record = read_record(done.path)
    at_paper = replace(record, config=record.config | {"budget": "paper"})
    write_record(done.path, at_paper)
    other = Cell("default", long, long.record_path(tmp_path))
    assert expected_seconds([other], tmp_path) == {0: (update_seconds(long, "cpu"), False)}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not share out cores")
def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 4})
    assert core_groups(2) == [(0, 2, 4), (1, 3)]
    assert core_groups(7) == [(0,), (1,), (2,), (3,), (4,), (0,), (1,)]
