"""Cells on a Ray cluster of several nodes, each of processes of this machine: shared work, dying nodes, Ctrl-C."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("ray", reason="ray is not installed: pip install -e '.[ray]'")

from ray.cluster_utils import Cluster

from omrlbench.cli import main
from omrlbench.launchers.ray import LOSSES, OBJECT_STORE, RayLauncher
from omrlbench.launchers.worker import Work
from omrlbench.record import read_record
from omrlbench.sweep import sweep

NODE = {"num_cpus": 1, "object_store_memory": OBJECT_STORE}


@pytest.fixture(scope="module")
def cluster():
    """A head that runs no cells, and a node for one cell. Tests put back the node that they kill."""
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()


def kill_a_node(cluster):
    """Kill one that runs cells, and have another one join."""
    (node, *_) = cluster.worker_nodes
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(wait=False, **NODE)


def on(cluster, work):
    return RayLauncher(work, address=cluster.address, cpus=1, gpus=0)


def test_smoke_records_are_those_of_the_local_launcher_and_the_data_are_made_once(
    cluster, tmp_path, assert_equal_records, capsys
):
    second = cluster.add_node(**NODE)
    results, data = tmp_path / "results", tmp_path / "data"
    with pytest.raises(SystemExit) as stop:
        main(
            ["sweep", "smoke", "--launcher", "ray", "--address", cluster.address]
            + ["--results-dir", str(results), "--data-dir", str(data)]
        )
    out, err = capsys.readouterr()
    assert stop.value.code == 0 and out == "10 cells: 10 finished, 0 diverged, 0 failed\n", out + err
    assert_equal_records(results)
    made = sorted(path.name for path in (data / "omrl" / "sparse_point_robot").iterdir() if path.is_dir())
    assert made == ["expert-shifted-v1", "expert-v1"]
    cluster.remove_node(second)


def test_a_cell_goes_on_from_its_checkpoint_when_its_node_dies(cluster, tmp_path, data_dir, cell, alone):
    lost = cell("bc", tmp_path, "steps=1000", "eval_interval=500", "checkpoint_interval=10")
    states, killed = [], []

    def kill(changed):
        if not killed and lost.path.with_suffix(".checkpoint").exists():
            kill_a_node(cluster)
            killed.append(True)
        if lost.state not in states[-1:]:
            states.append(lost.state)

    sweep([lost], on(cluster, Work(tmp_path, data_dir, ["bench"])), kill)
    assert states == ["queued", "running", "queued", "running", "finished"], lost.reason
    record, whole = read_record(lost.path), alone(lost)
    first, second = record.execution["sittings"]
    assert 0 < first["steps"] < 1000 and first["steps"] + second["steps"] == 1000
    assert record.result == whole.result and record.config == whole.config


def test_a_cell_that_takes_every_worker_down_fails_in_the_end(cluster, tmp_path, cell):
    class Deadly(Work):
        def run(self, config, tell):
            os._exit(1)

    deadly = cell("bc", tmp_path)
    sweep([deadly], on(cluster, Deadly(tmp_path, None, ["bench"])))
    assert deadly.state == "failed" and deadly.reason.startswith(f"lost {LOSSES} times, now by ")


def test_a_node_that_does_not_see_the_results_folder_fails_its_cell(cluster, tmp_path, cell):
    unseen = cell("bc", tmp_path / "elsewhere")
    unseen.path = tmp_path / "here" / "seed-0.json"  # whose folder the sweep makes
    sweep([unseen], on(cluster, Work(tmp_path / "elsewhere", None, ["bench"])))
    assert unseen.state == "failed" and "--results-dir must be a folder that all nodes share" in unseen.reason


@pytest.mark.parametrize("ctrl_c", [True, False])
def test_who_stops_a_sweep_has_the_workers_save(tmp_path, data_dir, ctrl_c):
    """A terminal sends Ctrl-C to all processes, others send SIGTERM to the sweep alone."""
    program = "import sys; from omrlbench.cli import main; main(sys.argv[1:])"
    places = ["--results-dir", str(tmp_path), "--data-dir", str(data_dir)]
    minutes_long = ["smoke", "--budget", "cpu", "--only", "algo=bc"]  # not over before the signal has arrived
    command = [sys.executable, "-c", program, "sweep", *minutes_long, "--launcher", "ray", *places]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 600  # Ray gives its workers little of a busy machine
    while not list(tmp_path.rglob("*.checkpoint")) and time.monotonic() < deadline:
        time.sleep(0.05)
    (checkpoint,) = tmp_path.rglob("*.checkpoint")
    before = checkpoint.stat().st_mtime_ns
    if ctrl_c:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and err == "bench: stopped, nothing is lost; the same command goes on\n", out + err
    assert checkpoint.stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--address", "127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1"),
        (["--cpus", "1000"], "--cpus of a cell is at most "),
        (["--gpus", "1"], "--gpus is for --device cuda"),
        (["--partition", "main"], "--partition is for --launcher slurm, not ray"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, capsys, options, said):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "smoke", "--launcher", "ray", "--results-dir", str(tmp_path), *options])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and err.startswith(f"bench: {said}") and err.count("\n") == 1, err
