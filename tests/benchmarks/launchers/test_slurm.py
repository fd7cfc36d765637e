"""Cells as jobs of a real Slurm of one node, and of submitit's own executor: requeueing, status, collecting."""

import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("submitit", reason="submitit is not installed: pip install -e '.[slurm]'")

import submitit

from omrlbench.cli import main
from omrlbench.launchers import slurm as slurm_launcher
from omrlbench.launchers.slurm import SlurmCell, SlurmLauncher
from omrlbench.launchers.worker import Work
from omrlbench.record import read_record
from omrlbench.sweep import find_cells

STEPS = ("steps=1000", "eval_interval=500", "checkpoint_interval=10")


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert condition()


# ------------------------------------------------------------------ submitit's local executor


def test_a_preempted_job_saves_and_goes_on(tmp_path, data_dir, cell, alone):
    stopped = cell("bc", tmp_path / "results", *STEPS)
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="local")
    executor.update_parameters(timeout_min=10)
    job = executor.submit(SlurmCell(Work(tmp_path / "results", data_dir, ["bench"]), stopped.config))
    wait_for(stopped.path.with_suffix(".checkpoint").exists)
    (task,) = Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    assert job.result()["state"] == "finished"
    record, whole = read_record(stopped.path), alone(stopped)
    first, second = record.execution["sittings"]
    assert first["steps"] + second["steps"] == 1000
    assert record.result == whole.result and record.config == whole.config


# ------------------------------------------------------------------ Slurm


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Two places for cells; commands of this process and of its children find this Slurm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        from slurm_cluster import SlurmCluster, missing

        if reason := missing():
            pytest.skip(reason)
        with SlurmCluster(tmp_path_factory.mktemp("slurm"), cpus=2) as cluster:
            for name, value in cluster.environment.items():
                patch.setenv(name, value)
            yield cluster


def bench(capsys, *arguments):
    """(exit code, standard output, standard error) of a command in this process."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code, *capsys.readouterr()


def test_smoke_records_are_those_of_the_local_launcher_and_are_collected(
    slurm, tmp_path, data_dir, assert_equal_records, capsys
):
    scratch, kept = tmp_path / "scratch", tmp_path / "kept"
    places = ["--results-dir", scratch, "--data-dir", data_dir]
    code, out, err = bench(capsys, "sweep", "smoke", "--launcher", "slurm", *places)
    assert code == 0 and out == "10 cells: 10 finished, 0 diverged, 0 failed\n", out + err
    assert_equal_records(scratch)
    code, out, err = bench(capsys, "collect", scratch, "--results-dir", kept)
    assert (code, out) == (0, "10 records: 10 collected, 0 there already, 0 refused\n"), err
    assert_equal_records(kept)


def test_a_requeued_job_goes_on_and_a_second_sweep_follows_it(slurm, tmp_path, data_dir, cell, alone, capsys):
    stopped = cell("bc", tmp_path, *STEPS)
    work = Work(tmp_path, data_dir, ["bench"])
    with SlurmLauncher(work, cpus=1, gpus=0) as launcher:
        launcher.start(stopped)
        list(launcher.listen())
        (job,) = launcher.jobs.values()
        assert "the jobs go on" in launcher.stop()
    wait_for(stopped.path.with_suffix(".checkpoint").exists)
    assert slurm.command("scontrol", "requeue", job) == ""
    wait_for(lambda: "PENDING" in slurm.command("squeue", "--noheader", "--format=%T"))
    slurm.command("scontrol", "update", f"JobId={job}", "StartTime=now")  # a requeued job waits two minutes otherwise
    again = cell("bc", tmp_path, *STEPS)
    with SlurmLauncher(work, cpus=1, gpus=0) as launcher:
        launcher.start(again)
        states = set()
        while not list(launcher.listen()):
            states.add(again.state)
        assert launcher.jobs == {id(again): job} and "running" in states
    assert again.state == "finished", again.reason
    record, whole = read_record(stopped.path), alone(stopped)
    first, second = record.execution["sittings"]
    assert first["steps"] + second["steps"] == 1000
    assert record.result == whole.result and record.config == whole.config


def test_status_tells_what_waits_and_cancelled_cells_fail_until_they_are_started_again(
    slurm, tmp_path, data_dir, capsys, monkeypatch
):
    monkeypatch.setattr(slurm_launcher, "PATIENCE", 1.0)
    places, cells = ["--results-dir", tmp_path, "--data-dir", data_dir], find_cells("smoke", tmp_path)
    with SlurmLauncher(Work(tmp_path, data_dir, ["bench"]), cpus=1, gpus=0) as launcher:
        for one in cells:
            launcher.start(one)
        list(launcher.listen())
        wait_for(lambda: "RUNNING" in slurm.command("squeue", "--noheader", "--array", "--format=%T"))
        code, out, err = bench(capsys, "status", "smoke", "--results-dir", tmp_path)
        assert code == 0 and " 1 running" in out and out.count(" 1 pending") >= 6, out + err
        slurm.command("scancel", "--user", "root")
        wait_for(lambda: not slurm.command("squeue", "--noheader"))
        code, out, err = bench(capsys, "status", "smoke", "--results-dir", tmp_path)
        assert code == 0 and " running" not in out and " pending" not in out, out + err
        given_back = []
        while len(given_back) < len(cells):
            given_back += launcher.listen()
    assert {one.state for one in given_back} <= {"failed", "finished"}
    assert cells[-1].state == "failed" and "was cancelled or killed" in cells[-1].reason
    code, out, err = bench(capsys, "sweep", "smoke", "--only", "algo=do_nothing", "--launcher", "slurm", *places)
    assert code == 0 and out == "1 cells: 1 finished, 0 diverged, 0 failed\n", out + err


def test_what_slurm_refuses_is_one_line(slurm, tmp_path, capsys):
    command = ["sweep", "smoke", "--launcher", "slurm", "--results-dir", tmp_path]
    code, out, err = bench(capsys, *command, "--partition", "nowhere")
    assert code == 2 and err.startswith("bench: Slurm takes no job: ") and err.count("\n") == 1, err
    code, out, err = bench(capsys, *command, "--device", "cuda", "--gpus", "0.5")
    assert (code, err) == (2, "bench: --gpus is a whole number with Slurm, not 0.5\n")
