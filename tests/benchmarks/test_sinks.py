"""The curve of a run outside its record."""

import csv
from importlib.util import find_spec
from pathlib import Path

import pytest

from omrlbench import sinks, training
from omrlbench.config import resolve
from omrlbench.errors import BenchError, Interrupted
from omrlbench.record import read_record

pytestmark = pytest.mark.usefixtures("tiny")


def configure(*overrides):
    values = ["steps=40", "eval_interval=10", "checkpoint_interval=15", *overrides]
    return resolve("sparse_point_robot", "tiny", budget="smoke", overrides=values)


def lines(path: Path) -> list[dict[str, str]]:
    with path.with_suffix(".csv").open() as file:
        return list(csv.DictReader(file))


def test_the_csv_has_a_line_per_point_with_the_record_s_numbers(tmp_path, data_dir):
    config = configure()
    training.run(config, results_dir=tmp_path, data_dir=data_dir)
    path = config.record_path(tmp_path)
    curve = read_record(path).result["curve"]
    written = lines(path)
    assert list(written[0])[:5] == ["step", "split", "score", "return", "cloning_loss"]
    for row, point in zip(written, curve, strict=True):
        assert (int(row["step"]), row["split"]) == (point["step"], "validation")
        assert float(row["score"]) == point["score"]
        assert float(row["cloning_loss"]) == point["metrics"]["cloning_loss"]
        assert float(row["train_probe_accuracy"]) == point["embedding"]["train"]["probe_accuracy"]


def test_a_metric_that_is_not_finite_or_comes_late_is_an_empty_field(tmp_path):
    point = {"split": "test", "score": 0.5, "returns": [[1.0, 2.0]], "embedding": {"train": None}}
    curve = [point | {"step": 1, "metrics": {"loss": None}}, point | {"step": 2, "metrics": {"loss": 1.0, "late": 2.0}}]
    sinks.CsvFile(tmp_path / "seed-0.csv").write(curve)
    text = (tmp_path / "seed-0.csv").read_text()
    assert text == "step,split,score,return,loss,late\n1,test,0.5,1.5,,\n2,test,0.5,1.5,1.0,2.0\n"


def test_the_csv_of_a_killed_and_resumed_run_is_that_of_an_undisturbed_one(tmp_path, data_dir, interrupted_at):
    config = configure()
    path, whole = config.record_path(tmp_path), config.record_path(tmp_path / "whole")
    with interrupted_at(25), pytest.raises(Interrupted):
        training.run(config, results_dir=tmp_path, data_dir=data_dir)
    assert [row["step"] for row in lines(path)] == ["10", "20"]
    training.run(config, results_dir=tmp_path, data_dir=data_dir)
    training.run(config, results_dir=tmp_path / "whole", data_dir=data_dir)
    assert path.with_suffix(".csv").read_bytes() == whole.with_suffix(".csv").read_bytes()


@pytest.mark.parametrize("name", [name for name in sinks.SINKS if find_spec(name) is None])
def test_a_missing_extra_is_one_line_with_the_command(tmp_path, name):
    with pytest.raises(BenchError, match=rf"^{name} is not installed: pip install 'omrl-bench\[{name}\]'$"):
        training.run(configure(), results_dir=tmp_path, sinks=[name])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="an extra")
def test_tensorboard_reads_every_point_once_after_a_resumption(tmp_path, data_dir, interrupted_at):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = configure()
    with interrupted_at(25), pytest.raises(Interrupted):
        training.run(config, results_dir=tmp_path, data_dir=data_dir, sinks=["tensorboard"])
    record = training.run(config, results_dir=tmp_path, data_dir=data_dir, sinks=["tensorboard"])
    events = EventAccumulator(str(config.record_path(tmp_path).with_suffix(".tensorboard"))).Reload()
    read = [(event.step, event.value) for event in events.Scalars("score")]
    assert read == [(point["step"], pytest.approx(point["score"], abs=1e-6)) for point in record.result["curve"]]


@pytest.mark.skipif(find_spec("wandb") is None, reason="an extra")
def test_wandb_gets_every_point(tmp_path, data_dir, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = configure()
    training.run(config, results_dir=tmp_path, data_dir=data_dir, sinks=["wandb"])
    assert len(list(config.record_path(tmp_path).parent.glob("wandb/offline-run-*/run-*.wandb"))) == 1
