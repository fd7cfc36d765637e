import errno
import json
import math
import os
from dataclasses import replace

import pytest

from omrlbench.errors import BenchError
from omrlbench.record import RunRecord, environment_facts, git_state, read_record, write_atomic, write_record

RECORD = RunRecord(
    config={"env": "point_robot", "seed": 0},
    sources={"steps": "--set"},
    result={
        "status": "finished",
        "message": None,
        "score": 0.1 + 0.2,
        "curve": [{"step": 5, "returns": [[math.pi, 1e-300]]}],
        "evaluations": [],
    },
    execution={"argv": ["bench"]},
)


def test_reading_gives_what_was_written_to_the_last_bit(tmp_path):
    write_record(tmp_path / "r.json", RECORD)
    assert read_record(tmp_path / "r.json") == RECORD
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_nan_is_refused():
    with pytest.raises(ValueError):
        replace(RECORD, result=RECORD.result | {"score": math.nan}).to_json()


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    path = tmp_path / "r.json"
    write_record(path, RECORD)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomic(path, b"half")
    assert caught.value.filename == str(path) and caught.value.errno == errno.ENOSPC
    assert read_record(path) == RECORD
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"schema_version": 99}, "its schema version is 99"),
        ({"surplus": 1}, "unknown sections: surplus"),
        ({"result": {"status": "finished"}}, "its result has no message"),
        ({"result": RECORD.result | {"status": "odd"}}, "its status is 'odd'"),
        ({"result": RECORD.result | {"score": "high"}}, "its score is 'high', not a number"),
        ({"result": RECORD.result | {"curve": 5}}, "its curve is not a JSON array"),
        ({"result": None}, "its result is not a JSON object"),
        ({"config": []}, "its config is not a JSON object"),
    ],
)
def test_what_is_no_record_is_refused_by_name(tmp_path, change, message):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(json.loads(RECORD.to_json()) | change))
    with pytest.raises(BenchError, match=message) as caught:
        read_record(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": NaN}'])
def test_broken_files_are_refused_by_name(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(BenchError, match="r.json is not a run record"):
        read_record(path)
    with pytest.raises(BenchError, match="there is no run record"):
        read_record(tmp_path / "other.json")


def test_the_exit_code_tells_divergence():
    assert RECORD.exit_code == 0
    assert replace(RECORD, result=RECORD.result | {"status": "diverged"}).exit_code == 3


def test_code_that_git_cannot_judge_counts_as_changed(monkeypatch):
    answers = {"ls-files": "record.py", "rev-parse": "0123", "status": None}
    monkeypatch.setattr("omrlbench.record._git", lambda folder, command, *rest: answers[command])
    assert git_state() == {"commit": "0123", "dirty": True}
    answers["status"] = ""
    assert git_state() == {"commit": "0123", "dirty": False}
    answers["rev-parse"] = None
    assert git_state() is None


def test_a_folder_in_place_of_a_record_is_named(tmp_path):
    with pytest.raises(BenchError, match=f"^cannot read {tmp_path} as a run record: Is a directory$"):
        read_record(tmp_path)


def test_environment_facts_are_plain_and_complete():
    facts = environment_facts(["bench", "run"], "cpu")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["argv"] == ["bench", "run"] and facts["peak_memory_bytes"] > 10**7
    assert all(facts["versions"].values()) and facts["cpu"]
