import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from omrlbench import training
from omrlbench.algorithms.merpo import MerPO
from omrlbench.config import resolve
from omrlbench.data.generate import make_dataset
from omrlbench.data.identity import OTHER_MACHINE, PINNED
from omrlbench.data.store import load_dataset
from omrlbench.envs.registry import get_meta_env
from omrlbench.errors import BenchError, Interrupted, RunBusy
from omrlbench.evaluation import Evaluation
from omrlbench.process import locked
from omrlbench.record import read_record

pytestmark = pytest.mark.usefixtures("tiny")

ENV = "sparse_point_robot"


def configure(*overrides, **arguments):
    values = ["steps=110", "eval_interval=25", "checkpoint_interval=30", *overrides]
    return resolve(ENV, "tiny", budget="smoke", overrides=values, **arguments)


def test_a_run_leaves_one_record_with_curve_scores_and_artefacts(tmp_path, data_dir):
    config, seen = configure(), []
    record = training.run(config, results_dir=tmp_path, data_dir=data_dir, argv=["x"], on_progress=seen.append)
    path = config.record_path(tmp_path)
    assert read_record(path) == record and record.status == "finished" and record.exit_code == 0
    assert {p.name for p in path.parent.iterdir()} - {"seed-0.lock"} == {
        "seed-0.json",
        "seed-0.npz",
        "seed-0.safetensors",
        "seed-0.csv",
    }
    assert [point["step"] for point in record.result["curve"]] == [25, 50, 75, 100, 110]
    assert {point["split"] for point in record.result["curve"]} == {"validation"}
    assert record.result["curve"][0]["metrics"].keys() == {"cloning_loss", "rare"}
    assert record.result["curve"][0]["embedding"].keys() == {"train", "validation"}
    assert 0 <= record.result["evaluations"][0]["embedding"]["probe_accuracy"] <= 1
    *final, shifted = record.result["evaluations"]
    assert [(e["step"], e["split"], e["protocol"]) for e in [*final, shifted]] == [
        (75, "test", "offline"),
        (100, "test", "offline"),
        (110, "test", "offline"),
        (110, "test", "offline_shifted"),
    ]
    assert shifted["contexts"].keys() == {"recipe", "content", "state"}
    assert shifted["contexts"]["state"] in (PINNED, OTHER_MACHINE)  # another processor's bytes differ
    assert record.result["unmeasured"] == {"online": "Cloning cannot act without a context"}
    assert np.array(final[0]["returns"]).shape == (20, 1)
    assert record.result["score"] == pytest.approx(np.mean([e["score"] for e in final]), abs=1e-12)
    assert record.execution["argv"] == ["x"] and record.execution["steps_per_second"] > 0
    assert record.config["dataset"].keys() == {"recipe", "content", "state"}
    shown = {point["score"] for point in record.result["curve"]}
    assert {p.score for p in seen} <= shown | {None} and [p.step for p in seen][-1] == 110

    with np.load(path.with_suffix(".npz")) as pictures:
        assert pictures["embeddings"].shape == (1100, config.algorithm.latent_dim) and pictures[
            "embedding_tasks"
        ].shape == (1100,)
        assert pictures["paths"].shape == (20, 21, 2) and pictures["path_tasks"].tolist() == final[0]["task_ids"]
    assert "actor.0.0.weight" in load_file(path.with_suffix(".safetensors"))


def test_the_same_seed_twice_is_the_same_result_and_another_seed_is_not(tmp_path, data_dir):
    first, second = (training.run(configure(), results_dir=tmp_path / n, data_dir=data_dir) for n in "ab")
    assert first.config == second.config and first.result == second.result
    other = training.run(configure(seed=1), results_dir=tmp_path, data_dir=data_dir)
    assert other.result != first.result


def test_focal_killed_twice_leaves_the_record_of_an_uninterrupted_run(tmp_path, data_dir):
    overrides = ["steps=150", "eval_interval=47", "checkpoint_interval=30", "alpha_mode=adaptive"]
    config = resolve(ENV, "focal", budget="smoke", overrides=overrides)
    values = [argument for override in overrides for argument in ("--set", override)]

    def start(results_dir):
        command = [sys.executable, "-c", "from omrlbench.cli import main; main()", "run", "--algo", "focal"]
        places = ["--results-dir", results_dir, "--data-dir", data_dir]
        return subprocess.Popen([*command, "--env", ENV, "--budget", "smoke", *values, *places])

    path = config.record_path(tmp_path / "killed")
    checkpoint = path.with_suffix(".checkpoint")
    for _ in range(2):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
        child = start(tmp_path / "killed")
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            assert child.poll() is None, "the run ended before it could be killed"
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not path.exists()
    assert start(tmp_path / "killed").wait() == 0
    resumed = read_record(path)
    whole = training.run(config, results_dir=tmp_path / "whole", data_dir=data_dir)
    execution = resumed.execution
    assert len(execution["sittings"]) == 3
    assert all(sitting["git"] == execution["git"] for sitting in execution["sittings"])
    for total, part in (("wall_seconds", "seconds"), ("processor_seconds", "processor_seconds")):
        assert execution[total] == pytest.approx(sum(sitting[part] for sitting in execution["sittings"]))
    assert 0 < execution["processor_seconds"] <= execution["wall_seconds"] * 1.01
    assert json.dumps(resumed.config) == json.dumps(whole.config)
    assert json.dumps(resumed.result) == json.dumps(whole.result)
    for suffix in (".npz", ".safetensors"):
        whole_file = config.record_path(tmp_path / "whole").with_suffix(suffix)
        assert path.with_suffix(suffix).read_bytes() == whole_file.read_bytes()


@pytest.mark.parametrize("step", [37, 100, 110])
def test_an_interrupt_keeps_the_state_and_the_same_call_goes_on(tmp_path, data_dir, interrupted_at, step):
    config = configure()
    handler = signal.getsignal(signal.SIGINT)
    message = f"stopped at step {step} of 110; the same command resumes"
    with interrupted_at(step), pytest.raises(Interrupted, match=message):
        training.run(config, results_dir=tmp_path, data_dir=data_dir)
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = training.run(config, results_dir=tmp_path, data_dir=data_dir)
    assert resumed.result == training.run(config, results_dir=tmp_path / "whole", data_dir=data_dir).result


def test_a_finished_run_is_not_repeated_unless_asked(tmp_path, data_dir):
    messages = []

    def again(**arguments):
        on_message = messages.append
        return training.run(configure(), results_dir=tmp_path, data_dir=data_dir, on_message=on_message, **arguments)

    first = again()
    assert again() == first and messages == [f"already finished: {configure().record_path(tmp_path)}"]
    repeated = again(overwrite=True)
    assert repeated.result == first.result and repeated.execution != first.execution and len(messages) == 1


def test_a_repetition_that_cannot_begin_leaves_the_finished_run(tmp_path, data_dir):
    first = training.run(configure(), results_dir=tmp_path, data_dir=data_dir)
    path = configure().record_path(tmp_path)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    damaged = tmp_path / "damaged"
    shutil.copytree(data_dir / "omrl" / ENV / "expert-v1", damaged / "omrl" / ENV / "expert-v1")
    (arrays,) = damaged.rglob("*.hdf5")
    os.truncate(arrays, arrays.stat().st_size // 2)
    with pytest.raises(BenchError, match="expert-v1"):
        training.run(configure(), results_dir=tmp_path, data_dir=damaged, overwrite=True)
    assert read_record(path) == first and {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_an_interrupted_repetition_keeps_the_record_and_goes_on(tmp_path, data_dir, interrupted_at):
    messages = []

    def again(**arguments):
        on_message = messages.append
        return training.run(configure(), results_dir=tmp_path, data_dir=data_dir, on_message=on_message, **arguments)

    first = again()
    path = configure().record_path(tmp_path)
    with interrupted_at(40), pytest.raises(Interrupted):
        again(overwrite=True)
    assert again() == first == read_record(path) and path.with_suffix(".npz").exists()
    repeated = again(overwrite=True)
    assert messages == [f"already finished: {path}", "resuming at step 40 of 110"]
    assert repeated.result == first.result and len(repeated.execution["sittings"]) == 2
    assert not path.with_suffix(".checkpoint").exists()


def test_a_checkpoint_older_than_the_record_is_not_taken_up(tmp_path, data_dir, monkeypatch):
    path, messages = configure().record_path(tmp_path), []
    monkeypatch.setattr(training, "BESIDE_RECORD", ())  # as if killed right after the record was written
    training.run(configure(), results_dir=tmp_path, data_dir=data_dir)
    assert path.with_suffix(".checkpoint").exists()
    training.run(configure(), results_dir=tmp_path, data_dir=data_dir, overwrite=True, on_message=messages.append)
    assert messages == []


def test_a_repetition_that_diverges_leaves_no_pictures_of_the_run_before(tmp_path, data_dir, monkeypatch):
    import tiny_method

    training.run(configure(), results_dir=tmp_path, data_dir=data_dir)
    path = configure().record_path(tmp_path)
    path.with_suffix(".png").touch()
    broken = {"cloning_loss": torch.tensor(torch.nan)}
    monkeypatch.setattr(tiny_method.Cloning, "update", lambda self, batch: broken)
    training.run(configure(), results_dir=tmp_path, data_dir=data_dir, overwrite=True)
    assert {file.name for file in path.parent.iterdir()} == {"seed-0.json", "seed-0.lock"}


@pytest.mark.parametrize("breaks_after, interval, step, points", [(60, 25, 75, 2), (0, 100, 50, 0)])
def test_a_loss_that_is_no_number_ends_the_run_with_a_record(tmp_path, data_dir, breaks_after, interval, step, points):
    messages = []
    config = configure(f"breaks_after={breaks_after}", f"eval_interval={interval}")
    record = training.run(config, results_dir=tmp_path, data_dir=data_dir, on_message=messages.append)
    assert record.status == "diverged" and record.exit_code == 3
    assert messages == [f"diverged: cloning_loss is nan at step {step} of 110"]
    assert len(record.result["curve"]) == points and record.result["evaluations"] == []
    scores = [point["score"] for point in record.result["curve"]]
    assert record.result["score"] == min([0.0, *scores[-1:]])
    again = training.run(config, results_dir=tmp_path, data_dir=data_dir, on_message=messages.append)
    assert again == record and messages[1:] == [f"already run, status diverged: {config.record_path(tmp_path)}"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e8])
def test_exploding_losses_are_divergence_and_other_metrics_are_not(value):
    training.check_losses({"q": value, "some_loss": 1.0}, "step 3")
    with pytest.raises(training.Diverged, match="some_loss is .* at step 3"):
        training.check_losses({"some_loss": value}, "step 3")


def test_metrics_that_are_not_finite_are_null_in_the_record(tmp_path, data_dir, monkeypatch):
    import tiny_method

    metrics = {"cloning_loss": torch.tensor(1.0), "q": torch.tensor(torch.inf)}
    monkeypatch.setattr(tiny_method.Cloning, "update", lambda self, batch: metrics)
    record = training.run(configure(), results_dir=tmp_path, data_dir=data_dir)
    assert record.result["curve"][0]["metrics"] == {"cloning_loss": 1.0, "q": None}


def test_the_second_process_on_a_run_is_told_so(tmp_path, data_dir):
    path = configure().record_path(tmp_path)
    path.parent.mkdir(parents=True)
    with locked(path), pytest.raises(RunBusy, match="another process is working on this run"):
        training.run(configure(), results_dir=tmp_path, data_dir=data_dir)


def test_a_checkpoint_of_another_run_is_refused(tmp_path, data_dir, interrupted_at):
    config, other = configure(), configure(seed=1)
    with interrupted_at(10), pytest.raises(Interrupted):
        training.run(config, results_dir=tmp_path, data_dir=data_dir)
    own, foreign = (c.record_path(tmp_path).with_suffix(".checkpoint") for c in (config, other))
    shutil.copy(own, foreign)
    with pytest.raises(BenchError, match="of another config, revision or dataset"):
        training.run(other, results_dir=tmp_path, data_dir=data_dir)
    state = torch.load(own, weights_only=True)
    state["algorithm"].popitem()
    torch.save(state, own)
    with pytest.raises(BenchError, match="of another version of the method; delete it"):
        training.run(config, results_dir=tmp_path, data_dir=data_dir)
    own.write_bytes(own.read_bytes()[:100])
    with pytest.raises(BenchError, match="cannot read .*seed-0.checkpoint, delete it to start again"):
        training.run(config, results_dir=tmp_path, data_dir=data_dir)


def test_the_validation_split_can_give_the_score_and_then_has_another_place(tmp_path, data_dir):
    tuning, final = configure(eval_split="validation"), configure()
    record = training.run(tuning, results_dir=tmp_path, data_dir=data_dir)
    assert {e["split"] for e in record.result["evaluations"]} == {"validation"}
    assert record.config["eval_split"] == "validation"
    assert tuning.record_path(tmp_path).parent != final.record_path(tmp_path).parent


@pytest.mark.parametrize("privileged", [False, True])
def test_only_privileged_methods_see_task_parameters(tmp_path, data_dir, monkeypatch, privileged):
    import tiny_method

    monkeypatch.setattr(tiny_method.Cloning, "privileged", privileged)
    original, seen = tiny_method.Cloning.update, []
    monkeypatch.setattr(
        tiny_method.Cloning, "update", lambda self, batch: (seen.append(batch), original(self, batch))[1]
    )
    training.run(configure("steps=3"), results_dir=tmp_path, data_dir=data_dir)
    shapes = {None if batch.task_parameters is None else tuple(batch.task_parameters.shape) for batch in seen}
    assert shapes == {(4, 2) if privileged else None}


def test_the_caller_s_random_state_and_threads_are_left_alone(tmp_path, data_dir):
    torch.manual_seed(5)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(5)
    training.run(configure("steps=3"), results_dir=tmp_path, data_dir=data_dir)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is available")
def test_an_unavailable_device_is_one_line(tmp_path):
    with pytest.raises(BenchError, match="^device 'cuda' is not available here$"):
        training.run(configure("device=cuda"), results_dir=tmp_path)


def test_data_of_another_recipe_are_refused_with_the_command_that_replaces_them(tmp_path):
    make_dataset(get_meta_env(ENV), "random", "per_task", tmp_path, episodes=1)
    config = configure(level="random")
    with pytest.raises(BenchError, match=f"make it again: bench data make .* random --data-dir {tmp_path}$"):
        training.run(config, results_dir=tmp_path / "results", data_dir=tmp_path)


def test_the_curve_falls_back_to_train_tasks_where_there_are_no_validation_tasks(tmp_path, data_dir, monkeypatch):
    """Two-task environments have no validation split."""
    splits = []

    def fake(algorithm, dataset, split, *arguments):
        splits.append(split)
        return Evaluation(split, (0,), np.zeros((1, 1)), *np.zeros((2, 1, 1, 21, 2), np.float32), 0.0)

    config = configure("steps=2")
    dataset = load_dataset(ENV, "expert", data_dir=data_dir)
    monkeypatch.setattr(training, "load_logs", lambda *_: {"offline": dataset, "online": dataset})
    monkeypatch.setattr(training, "evaluate", fake)
    monkeypatch.setitem(dataset.spec.tasks.splits, "validation", ())
    record = training.run(config, results_dir=tmp_path, data_dir=data_dir)
    assert splits[:2] == ["train", "test"] and "one task" in record.result["unmeasured"]["offline_shifted"]
    with pytest.raises(BenchError, match="has no validation tasks"):
        configure(eval_split="validation")


OWN = ["steps=20", "eval_interval=10", "checkpoint_interval=6"]


def own(**arguments):
    return resolve(ENV, "single_task_iql", budget="smoke", overrides=OWN, **arguments)


def test_an_allowed_method_learns_from_the_evaluated_tasks_and_no_other(data_dir):
    dataset = load_dataset(ENV, "expert", data_dir=data_dir)
    splits = dataset.spec.tasks.splits
    for split in ("test", "validation"):
        algorithm = training.make_algorithm(own(eval_split=split), dataset)
        wanted = sorted({*splits["validation"], *splits[split]})
        assert list(algorithm.problem.evaluated_tasks) == wanted
        batch = training.make_sampler(own(), dataset, algorithm, np.random.default_rng(0)).sample()
        assert sorted(batch.tasks.tolist()) == list(range(len(wanted)))
        for place, rows in zip(batch.tasks.tolist(), batch.observations, strict=True):
            start, size = dataset.task_start[wanted[place]], dataset.task_size[wanted[place]]
            logged = dataset.observations[start : start + size]
            assert (rows[:, None] == logged).all(-1).any(-1).all()


def test_where_train_and_test_tasks_are_the_same_they_are_the_evaluated_ones():
    tasks = get_meta_env("cheetah_fwd_back").tasks
    assert training.evaluated_tasks(resolve("cheetah_fwd_back", "single_task_iql"), tasks) == (0, 1)


def test_without_the_allowance_nothing_is_known_of_the_evaluated_tasks_and_their_data_are_refused(data_dir):
    from tiny_method import Cloning

    dataset = load_dataset(ENV, "expert", data_dir=data_dir)
    algorithm = training.make_algorithm(configure(), dataset)
    assert algorithm.problem.evaluated_tasks == ()

    class Curious(Cloning):
        learns_from = "evaluated"

    algorithm.__class__ = Curious
    with pytest.raises(TypeError, match='Curious learns from evaluated tasks: set allowance = "dataset"'):
        training.make_sampler(configure(), dataset, algorithm, np.random.default_rng(0))


def test_a_run_on_own_data_says_what_it_saw_and_resumes_bitwise(tmp_path, data_dir, monkeypatch):
    whole = training.run(own(), results_dir=tmp_path / "whole", data_dir=data_dir)
    assert whole.config["allowance"] == "dataset" and whole.result["curve"][0]["embedding"]["train"] is None
    assert "collects no context" in whole.result["unmeasured"]["online"]
    offline, shifted = (e["returns"] for e in whole.result["evaluations"][-2:])
    assert offline == shifted  # contexts say nothing but the task
    assert "allowance" not in configure().to_dict()

    class Stop:
        requested = False

    def stop_at(progress):
        Stop.requested = progress.step >= 10

    dataset = load_dataset(ENV, "expert", data_dir=data_dir)
    path = own().record_path(tmp_path / "parts")
    path.parent.mkdir(parents=True)
    first = training.TrainingRun(own(), {"offline": dataset}, path, [])
    with pytest.raises(Interrupted):
        first.train(Stop, stop_at)
    resumed = training.run(own(), results_dir=tmp_path / "parts", data_dir=data_dir)
    assert resumed.result == whole.result and len(resumed.execution["sittings"]) == 2


def test_a_run_of_several_stages_names_them_and_resumes_bitwise_in_each(tmp_path, data_dir, monkeypatch):
    config = resolve(ENV, "merpo", budget="smoke", overrides=["steps=20", "eval_interval=10", "checkpoint_interval=6"])
    whole = training.run(config, results_dir=tmp_path / "whole", data_dir=data_dir)
    update, shown = MerPO.update, []

    def show(now):
        shown.append(now.stage)

    for stage in ("dynamics", "meta_policy", "models"):
        updates = []

        def interrupted(self, batch, stage=stage, updates=updates):
            updates.append(self.stage)
            if updates.count(stage) == 8:
                os.kill(os.getpid(), signal.SIGINT)
            return update(self, batch)

        with monkeypatch.context() as patch, pytest.raises(Interrupted, match=f"at step 8 of 50 of stage {stage}"):
            patch.setattr(MerPO, "update", interrupted)
            training.run(config, results_dir=tmp_path, data_dir=data_dir, on_progress=show)
    resumed = training.run(config, results_dir=tmp_path, data_dir=data_dir, on_progress=show)
    assert list(dict.fromkeys(shown)) == ["dynamics", "meta_policy", "models", None]  # the last shows scores
    assert resumed.result == whole.result and len(resumed.execution["sittings"]) == 4
