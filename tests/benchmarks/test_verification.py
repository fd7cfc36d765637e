"""Records that are read back: which are used, stale or refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from omrlbench import training
from omrlbench.config import resolve
from omrlbench.record import read_record
from omrlbench.suite import suite_cells
from omrlbench.verification import read_results, stale_reason

ROOT = Path(__file__).parents[2]
ENV = "sparse_point_robot"


def path_of(runs: Path, algo: str = "do_nothing", seed: int = 0) -> Path:
    return resolve(ENV, algo, seed=seed).record_path(runs)


EDITS = {
    "another score": lambda r: r["result"].update(score=0.9),
    "another score of an evaluation": lambda r: r["result"]["evaluations"][0].update(score=0.9),
    "another return": lambda r: r["result"]["evaluations"][0]["returns"][0].__setitem__(0, 13.0),
    "another point": lambda r: r["result"]["curve"][1].update(score=0.9),
    "a missing point": lambda r: r["result"]["curve"].pop(0),
    "a missing evaluation": lambda r: r["result"]["evaluations"].pop(0),
    "other tasks": lambda r: r["result"]["evaluations"][0].update(task_ids=list(range(20))),
    "fewer episodes": lambda r: [row.pop() for row in r["result"]["evaluations"][0]["returns"]],
    "another value": lambda r: r["config"]["training"].update(final_eval_episodes=11),
    "another seed": lambda r: r["config"].update(seed=3),
    "another fingerprint": lambda r: r["config"].update(fingerprint=r["config"]["fingerprint"][:8] + "0" * 56),
    "another state of the data": lambda r: r["config"]["dataset"].update(content="0" * 64, state="pinned"),
    "a missing key": lambda r: r["config"].pop("training"),
    "no times": lambda r: r["execution"].pop("wall_seconds"),
    "an unknown section": lambda r: r.update(note="hello"),
}


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
def test_a_record_changed_by_hand_is_refused_and_the_rest_read(runs, change, edit):
    edit(path_of(runs), change)
    results = read_results(runs)
    assert list(results.refused) == [path_of(runs).relative_to(runs)]
    assert sum(map(len, results.runs.values())) == 4 and not results.stale


def test_a_trial_is_not_stale_whose_suite_now_names_what_it_left_to_defaults():
    """The committed trials of FOCAL on the walker were made before its values there were chosen."""
    folder = ROOT / "results" / "runs"
    config = dict(suite_cells("walker_penalty"))["policy regularisation alone"]
    record = read_record(config.record_path(folder))
    assert "learning_rate" not in {key for key, source in record.sources.items() if source == "--set"}
    assert stale_reason(record) is None
    changed = {"learning_rate": 7e-4}
    other = replace(config, algorithm=replace(config.algorithm, **changed))
    values = record.config["algorithm"] | changed
    record.config.update(algorithm=values, fingerprint=other.fingerprint)
    assert stale_reason(record) == "learning_rate=0.0007, installed has 0.001"


@pytest.mark.parametrize("change", ["reward_threshold=none", "reward_threshold=0.07", "next_observations_differ=true"])
def test_a_value_that_was_set_is_not_stale_whatever_its_type(finished, change):
    config = resolve(ENV, "mbml", overrides=[change])
    made = read_record(path_of(finished))
    record = replace(made, config=config.to_dict() | {"dataset": made.config["dataset"]}, sources=config.sources)
    assert stale_reason(record) is None


def test_a_truncated_or_moved_record_is_refused(runs):
    whole = path_of(runs).read_text()
    path_of(runs).write_text(whole[:-100])
    (reason,) = read_results(runs).refused.values()
    assert "is not a run record" in reason
    path_of(runs).write_text(whole)
    path_of(runs).rename(path_of(runs).with_name("seed-4.json"))
    results = read_results(runs)
    (reason,) = results.refused.values()
    assert "belongs at" in reason and "seed-0.json" in reason
    assert sum(map(len, results.runs.values())) == 4


def test_a_record_that_hides_what_its_method_saw_is_refused(tmp_path, data_dir, edit):
    config = resolve(ENV, "single_task_iql", budget="smoke", overrides=["steps=3", "eval_interval=1"])
    training.run(config, results_dir=tmp_path, data_dir=data_dir)
    assert not read_results(tmp_path).refused
    edit(config.record_path(tmp_path), lambda record: record["config"].pop("allowance"))
    (reason,) = read_results(tmp_path).refused.values()
    assert "its method's allowance is dataset" in reason
