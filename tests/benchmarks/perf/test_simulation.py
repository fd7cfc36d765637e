"""The script runs with tiny sizes, and what it compares is the same work."""

import subprocess
import sys

import numpy as np
import pytest

from omrlbench.envs.registry import get_meta_env
from omrlbench.perf import simulation

TINY = "--rounds 2 --members 3 --threads 2 --processes 2 --steps 4 --tasks 1 --episodes 2"


def test_script_prints_a_table_per_world_and_one_of_evaluation(tmp_path):
    command = [sys.executable, "-m", "omrlbench.perf.simulation", *TINY.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    titles = [line.split("|")[1].strip() for line in done.stdout.splitlines() if "| steps/s |" in line]
    assert titles == ["random actions: cheetah_vel", "random actions: ant_fwd_back", "evaluation: cheetah_vel"]
    for name in ("OMRL-Bench: 3 members", "gymnasium: HalfCheetah-v5", "gymnasium: Ant-v5", "one environment: 1 tasks"):
        assert f"\n| {name}" in done.stdout
    assert "EnvPool" in done.stdout  # measured, or left out with a word
    assert list(tmp_path.iterdir()) == []


def test_envpool_that_is_missing_is_left_out_with_a_word(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "envpool", None)
    assert simulation.envpool("Ant-v4", 2, 1, 200) is None
    assert capsys.readouterr().out.startswith("\nEnvPool is left out: ")


@pytest.mark.parametrize("meta_env", simulation.WORLDS)
def test_turns_go_on_where_the_last_one_stopped(meta_env):
    envs = get_meta_env(meta_env).make_vector([0, 1, 1], threads=1, autoreset=True)
    envs.reset(seed=0)
    run = simulation.random_steps(envs, members=3, steps=5)
    assert run() == run() == 15
    np.testing.assert_array_equal(envs.elapsed, 10)


def test_both_ways_of_evaluating_earn_the_same():
    spec = get_meta_env("cheetah_vel")
    tasks = np.repeat(spec.tasks.splits["test"][:2], 2)
    actor, z = simulation.focal_actor(spec, len(tasks))
    at_once, in_turn = (
        evaluate(spec, tasks, actor, z) for evaluate in (simulation.evaluate_at_once, simulation.evaluate_in_turn)
    )
    assert len(set(at_once)) == len(tasks)
    np.testing.assert_allclose(at_once, in_turn, rtol=1e-3)  # the same but for the rounding of a larger product
