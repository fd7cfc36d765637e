"""bench compare on real runs whose scores are set by the test: names, paths, verdicts and exit codes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from omrlbench import training
from omrlbench.cli import main
from omrlbench.compare import Comparison, compare, decide, different_kinds, find_side
from omrlbench.config import resolve
from omrlbench.envs.references import reference_returns
from omrlbench.errors import BenchError
from omrlbench.record import read_record, write_record
from omrlbench.stats import Estimate, probability_of_improvement

ENV = "sparse_point_robot"


@pytest.fixture(scope="module")
def real(tmp_path_factory, data_dir) -> Path:
    folder = tmp_path_factory.mktemp("real")
    for algo in ("do_nothing", "random_policy"):
        training.run(resolve(ENV, algo), results_dir=folder, data_dir=data_dir)
    return folder


@pytest.fixture
def runs(real, tmp_path):
    """Write records of `algo` that score `scores`, one per seed from 0 on; returns the folder of their cell."""

    def write(algo: str, scores: list[float], results_dir: Path = tmp_path) -> Path:
        record = read_record(resolve(ENV, algo).record_path(real))
        for seed, score in enumerate(scores):
            config = resolve(ENV, algo, seed=seed)
            path = config.record_path(results_dir)
            path.parent.mkdir(parents=True, exist_ok=True)
            result = record.result | {"evaluations": [scored(e, score) for e in record.result["evaluations"]]}
            result["score"] = score
            write_record(path, replace(record, config=record.config | {"seed": seed}, result=result))
        return path.parent

    return write


def scored(evaluation: dict, score: float) -> dict:
    references = reference_returns(ENV, "test")
    earned = references.random + score * (references.expert - references.random)
    returns = [[earned] * len(row) for row in evaluation["returns"]]
    return evaluation | {"returns": returns, "score": score}


@pytest.fixture
def bench(capsys):
    def call(*arguments) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["compare", *map(str, arguments)])
        return stop.value.code, *capsys.readouterr()

    return call


LOW, HIGH = [0.1, 0.2, 0.3, 0.4, 0.5], [0.6, 0.7, 0.8, 0.9, 1.0]


def test_exit_codes_tell_better_worse_alike_and_too_few(bench, runs, tmp_path):
    place = ("--results-dir", tmp_path)
    runs("do_nothing", HIGH), runs("random_policy", LOW)
    code, out, _ = bench("do_nothing", "random_policy", *place)
    assert code == 0 and "A is better than B" in out
    (row,) = [line for line in out.splitlines() if line.startswith(f"{ENV}, expert")]
    assert row.split()[2:] == "0.800 ± 0.196 0.300 ± 0.196 5 and 5 1.000 [1.000, 1.000] 0.0079".split()
    code, out, _ = bench("random_policy", "do_nothing", *place)
    assert code == 1 and "A is worse than B" in out
    runs("random_policy", HIGH)
    code, out, _ = bench("random_policy", "do_nothing", *place)
    assert code == 0 and "no difference" in out


def test_few_runs_never_pass_as_not_worse(bench, runs, tmp_path):
    runs("do_nothing", HIGH[:3]), runs("random_policy", LOW[:3])
    for pair in (("do_nothing", "random_policy"), ("random_policy", "do_nothing")):
        code, out, _ = bench(*pair, "--results-dir", tmp_path)
        assert code == 5 and "too few runs" in out and "3 and 3" in out


def test_sides_are_paths_methods_or_suites(runs, tmp_path):
    cell = runs("do_nothing", HIGH)
    record = cell / "seed-0.json"
    assert {c: list(r) for c, r in find_side(str(record), [], "cpu").items()} == {f"{ENV}, expert": [0]}
    column = {f"{ENV}, expert": [0, 1, 2, 3, 4]}
    for name in (str(cell), str(tmp_path / ENV), "do_nothing"):
        assert {c: list(r) for c, r in find_side(name, [tmp_path], "cpu").items()} == column
    assert {c: list(r) for c, r in find_side("core", [tmp_path], "cpu").items()} == column
    runs("random_policy", LOW)
    both = {f"{ENV}, expert, do_nothing", f"{ENV}, expert, random_policy"}
    assert set(find_side(str(tmp_path), [], "cpu")) == both == set(find_side("core", [tmp_path], "cpu"))


def test_where_two_folders_have_a_run_the_first_counts(runs, tmp_path):
    runs("do_nothing", [0.1], tmp_path / "mine"), runs("do_nothing", [0.2, 0.3], tmp_path / "theirs")
    (found,) = find_side("do_nothing", [tmp_path / "mine", tmp_path / "theirs"], "cpu").values()
    assert [run.result["score"] for run in found.values()] == [0.1, 0.3]


def test_wrong_sides_are_refused_in_one_line(bench, runs, tmp_path):
    cell = runs("do_nothing", HIGH)
    for arguments, message in (
        (("do_nothin", "focal"), "did you mean do_nothing"),
        (("do_nothing", "focal", "--budget", "cpuu"), "did you mean cpu?"),
        (("do_nothing", "focal", "--results-dir", tmp_path), "bench run --algo focal --budget cpu"),
        (("do_nothing", "smoke", "--results-dir", tmp_path), "bench sweep smoke"),
        ((cell, tmp_path / "empty"), "unknown method, suite or path"),
    ):
        code, _, err = bench(*arguments)
        assert code == 2 and message in err and len(err.splitlines()) == 1
    stored = json.loads((cell / "seed-0.json").read_text())
    stored["result"]["score"] = 2.0
    (cell / "seed-0.json").write_text(json.dumps(stored))
    code, _, err = bench(cell, cell)
    assert code == 2 and "not as its run wrote it" in err


def test_other_revisions_of_the_protocol_do_not_compare(runs, tmp_path):
    cell = runs("do_nothing", HIGH)
    config = resolve(ENV, "do_nothing")
    old = replace(config, revisions=config.revisions | {"protocol": 0})
    record = read_record(cell / "seed-0.json")
    path = old.record_path(tmp_path / "old")
    path.parent.mkdir(parents=True)
    write_record(path, replace(record, config=old.to_dict() | {"dataset": record.config["dataset"]}))
    with pytest.raises(BenchError, match="of the protocol cannot be compared"):
        compare(str(cell), str(path), [], "cpu")


def test_scores_of_different_protocols_compare_under_one(bench, runs, tmp_path, data_dir):
    config = resolve(ENV, "pearl", budget="smoke", overrides=["steps=3", "eval_interval=1"])
    record = training.run(config, results_dir=tmp_path / "own", data_dir=data_dir)
    pearl, other = config.record_path(tmp_path / "own"), runs("do_nothing", [0.8, 0.8])
    for path in other.glob("seed-*.json"):
        found = read_record(path)
        evaluations = [scored(e, 0.2) if e["protocol"] == "online" else e for e in found.result["evaluations"]]
        write_record(path, replace(found, result=found.result | {"evaluations": evaluations}))
    code, _, err = bench(pearl, other)
    assert code == 2 and err.endswith("those of final parameters can: --protocol online\n")
    code, out, _ = bench(pearl, other, "--protocol", "online")
    (row,) = [line for line in out.splitlines() if line.startswith(f"{ENV}, expert ")]
    assert code == 5 and row.split()[2:6] == [
        f"{record.last_evaluation('online')['score']:z.3f}",
        "0.200",
        "±",
        "0.000",
    ]
    assert "scores of the final parameters under the protocol online" in out
    code, out, _ = bench(pearl, other, "--protocol", "offline")
    assert code == 5 and " 0.800 ± 0.000 " in out


def test_a_protocol_that_is_unknown_or_that_no_run_has_is_refused_in_one_line(bench, runs, tmp_path, data_dir):
    config = resolve(ENV, "single_task_iql", budget="smoke", overrides=["steps=3", "eval_interval=1"])
    training.run(config, results_dir=tmp_path / "own", data_dir=data_dir)
    alone, other = config.record_path(tmp_path / "own"), runs("do_nothing", [0.5])
    for protocol, said in {
        "online": f"no run of {alone} was evaluated under the protocol online",
        "onlin": "unknown protocol 'onlin': did you mean online?",
    }.items():
        code, _, err = bench(alone, other, "--protocol", protocol)
        assert code == 2 and said in err and len(err.splitlines()) == 1


def test_several_meta_environments_decide_together():
    few = Estimate(0.5, None, None, (3, 3))
    clear = Comparison("together", few, few, probability_of_improvement([[1.0, 1]] * 3, [[0.0, 0]] * 3), 2 / 400)
    assert decide(clear, 2) == "better" and decide(clear, 1) == "undecided" and decide(None, 2) == "undecided"


def test_sides_that_see_different_things_of_a_test_task_are_said_to(real, runs, tmp_path, data_dir):
    config = resolve(ENV, "single_task_iql", budget="smoke", overrides=["steps=3", "eval_interval=1"])
    record = training.run(config, results_dir=tmp_path / "own", data_dir=data_dir)
    other = runs("do_nothing", [0.5])
    path = config.record_path(tmp_path / "own")
    assert record.config["allowance"] == "dataset"
    remarks = compare(str(path), str(other), [], "smoke").remarks
    wanted = f"of an evaluated task {path} sees its whole dataset, from which it learns, {other} a context of it"
    assert wanted in remarks
    assert not any("sees" in remark for remark in compare(str(other), str(other), [], "smoke").remarks)


def test_sides_that_learn_from_different_things_are_said_to(real):
    record = read_record(resolve(ENV, "do_nothing").record_path(real))
    sides = {algo: {ENV: {0: replace(record, config=record.config | {"algo": algo})}} for algo in ("pearl", "smac")}
    said = different_kinds("this", sides["pearl"], "that", sides["smac"])
    assert said == ["this learns from interaction, that from logs and reward-free interaction"]
    assert different_kinds("this", sides["smac"], "that", sides["smac"]) == []
