"""`bench eval`: what a record and the weights beside it give, evaluated again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from omrlbench import config as configuration
from omrlbench import reevaluation, run_data, training
from omrlbench.cli import main
from omrlbench.config import resolve
from omrlbench.data.generate import make_dataset
from omrlbench.data.store import load_dataset
from omrlbench.envs.registry import get_meta_env
from omrlbench.errors import BenchError
from omrlbench.record import read_evaluation, read_record
from omrlbench.reevaluation import Request, evaluate_again

pytestmark = pytest.mark.usefixtures("tiny")

ENV = "cheetah_fwd_back"  # small data, and rewards that tell any two policies apart
SHORT = ["steps=6", "eval_interval=2", "final_eval_episodes=2"]
STAGES = ["teacher_steps=2", "ensemble_steps=2"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def focal(tmp_path_factory, data_dir) -> Path:
    """The record of a short run of FOCAL. Tests only read it, and evaluate it."""
    return run("focal", tmp_path_factory.mktemp("focal"), data_dir)


def run(algo: str, folder: Path, data_dir: Path, *overrides: str) -> Path:
    config = resolve(ENV, algo, budget="smoke", overrides=[*SHORT, *overrides])
    training.run(config, results_dir=folder, data_dir=data_dir)
    return config.record_path(folder)


def test_observations_are_scaled_as_in_the_run_whatever_the_data_here(tmp_path, data_dir, focal):
    path, tensors = tmp_path / focal.name, load_file(focal.with_suffix(".safetensors"))
    shutil.copy(focal, path)
    tensors["observations.mean"] = tensors["observations.mean"] + 1
    save_file(tensors, path.with_suffix(".safetensors"))
    _, again = evaluate_again(path, Request(), data_dir=data_dir)
    assert again.result["returns"] != read_record(focal).last_evaluation("offline")["returns"]


@pytest.mark.parametrize(
    ("algo", "overrides"),
    [
        ("tiny", []),
        ("batch_pearl", []),
        ("contextual_bcq", []),
        ("mbml", STAGES),
        ("bc", []),
        ("single_task_bcq", []),
        ("random_policy", []),
    ],
)
def test_every_protocol_gives_what_the_run_itself_measured_at_its_end(tmp_path, data_dir, algo, overrides):
    path = run(algo, tmp_path, data_dir, *overrides)
    record, before = read_record(path), path.read_bytes()
    last = {evaluation["protocol"]: evaluation for evaluation in record.result["evaluations"]}
    assert set(last) | set(record.result["unmeasured"]) == {"offline", "offline_shifted", "online"}
    for protocol, measured in last.items():
        _, again = evaluate_again(path, Request(protocol), data_dir=data_dir)
        assert again.result["returns"] == measured["returns"] and again.result["score"] == measured["score"]
    assert path.read_bytes() == before


def test_an_evaluation_has_a_record_and_a_place_of_its_own(focal, data_dir):
    request = Request("online", episodes=3)
    target, made = evaluate_again(focal, request, data_dir=data_dir, argv=["x"])
    assert target == focal.parent / "seed-0.evaluations" / "online-test-3.json"
    assert read_evaluation(target) == made and made.execution["argv"] == ["x"]
    assert made.config == read_record(focal).config and made.evaluation["record"] == "seed-0.json"
    assert np.shape(made.result["returns"]) == (2, 3) and made.evaluation["contexts"] is None
    with pytest.raises(BenchError, match="online-test-3.json is not a run record of schema 1"):
        read_record(target)
    assert target not in focal.parent.rglob("seed-*.json")


def test_more_episodes_begin_with_the_same(focal, data_dir):
    few, many = (evaluate_again(focal, Request(episodes=n), data_dir=data_dir)[1] for n in (2, 5))
    begin = np.array(many.result["returns"])[:, :2]
    np.testing.assert_allclose(begin, few.result["returns"], rtol=1e-3)


def test_contexts_of_another_level_are_used_and_recorded(focal, data_dir):
    target, made = evaluate_again(focal, Request(level="random"), data_dir=data_dir)
    random = make_dataset(get_meta_env(ENV), "random", "per_task", data_dir)
    assert made.evaluation["contexts"] | {"content": random["content_sha256"]} == made.evaluation["contexts"]
    assert made.evaluation["contexts"]["level"] == "random" and target.stem == "offline-random-test-2"
    own = evaluate_again(focal, Request(), data_dir=data_dir)[1]
    assert own.result["returns"] != made.result["returns"]
    with pytest.raises(BenchError, match="have no --context-level"):
        evaluate_again(focal, Request("online", level="random"), data_dir=data_dir)


def test_several_records_read_a_dataset_once(focal, data_dir, tmp_path, monkeypatch, capsys):
    read = []

    def reading(*arguments, **options):
        read.append(arguments)
        return load_dataset(*arguments, **options)

    alone = evaluate_again(focal, Request(level="random"), data_dir=data_dir)[1].result
    monkeypatch.setattr(run_data, "load_dataset", reading)
    other = run("focal", tmp_path, data_dir)
    read.clear()
    with pytest.raises(SystemExit) as stop:
        main(["eval", str(other), str(focal), "--context-level", "random", "--data-dir", str(data_dir)])
    assert stop.value.code == 0 and read == [(ENV, get_meta_env(ENV).default_level), (ENV, "random")]
    target = focal.parent / "seed-0.evaluations" / "offline-random-test-2.json"
    assert str(target) in capsys.readouterr().out and read_evaluation(target).result == alone


def test_what_cannot_be_evaluated_is_one_line_with_the_fix(focal, data_dir, tmp_path, monkeypatch):
    path = tmp_path / "a folder" / "seed-0.json"
    path.parent.mkdir()
    shutil.copy(focal, path)
    with pytest.raises(BenchError, match=f"no weights beside {path}; repeat the run .*: bench run --from '{path}'$"):
        evaluate_again(path, Request(), data_dir=data_dir)
    path.with_suffix(".safetensors").write_bytes(b"no weights")
    with pytest.raises(BenchError, match=f"cannot read {path.with_suffix('.safetensors')}; repeat the run"):
        evaluate_again(path, Request(), data_dir=data_dir)
    with pytest.raises(BenchError, match="unknown protocol 'onlin': did you mean online?"):
        evaluate_again(path, Request("onlin"), data_dir=data_dir)
    table = json.loads(focal.read_text())
    path.write_text(json.dumps(table | {"result": table["result"] | {"evaluations": []}}))
    with pytest.raises(BenchError, match="holds no evaluation that could be repeated"):
        evaluate_again(path, Request(), data_dir=data_dir)
    path.write_text(json.dumps(table | {"result": table["result"] | {"status": "diverged"}}))
    with pytest.raises(BenchError, match="of a run that diverged: it has no final parameters"):
        evaluate_again(path, Request(), data_dir=data_dir)
    table["config"]["algorithm"]["context_size"] += 1
    path.write_text(json.dumps(table))
    with pytest.raises(BenchError, match="was changed by hand: its config does not have its fingerprint"):
        evaluate_again(path, Request(), data_dir=data_dir)
    monkeypatch.setattr(configuration.algorithm_class("focal"), "revision", 99)
    with pytest.raises(BenchError, match="it has algorithm revision .*, this installation 99"):
        evaluate_again(focal, Request(), data_dir=data_dir)


def test_a_method_without_a_prior_is_told_so(tmp_path, data_dir):
    path = run("tiny", tmp_path, data_dir)
    with pytest.raises(BenchError, match="tiny has no online evaluation: Cloning cannot act without a context"):
        evaluate_again(path, Request("online"), data_dir=data_dir)


def test_a_repetition_of_the_run_removes_evaluations_of_its_earlier_weights(tmp_path, data_dir):
    path = run("tiny", tmp_path, data_dir)
    target, _ = evaluate_again(path, Request(), data_dir=data_dir)
    config = resolve(ENV, "tiny", budget="smoke", overrides=SHORT)
    training.run(config, results_dir=tmp_path, data_dir=data_dir)
    assert target.exists()
    training.run(config, results_dir=tmp_path, data_dir=data_dir, overwrite=True)
    assert not target.exists()


def test_tasks_that_a_run_did_not_learn_from_are_refused(tmp_path, monkeypatch):
    """A run on the validation tasks' own data has no policy of a test task; one on the test tasks' has all."""
    config = resolve("sparse_point_robot", "single_task_iql", budget="smoke", eval_split="validation")
    arguments = (Request("online"), "test", config.level)
    with pytest.raises(BenchError, match="did not learn from the test tasks: give --eval-split validation"):
        reevaluation._check(config, *arguments)
    config = resolve("sparse_point_robot", "single_task_iql", budget="smoke")
    for split in ("test", "validation"):
        reevaluation._check(config, Request("online"), split, config.level)
