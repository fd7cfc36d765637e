"""Records of a scratch folder come back verified, whole, and never over other results."""

import json
import shutil
from pathlib import Path

import pytest

from omrlbench.cli import main

RUNS = Path(__file__).parents[2] / "results" / "runs"
CELL = Path("sparse_point_robot", "expert", "focal")


@pytest.fixture
def scratch(tmp_path) -> Path:
    """A results folder with committed runs, one of them with a file that a later evaluation would have left."""
    shutil.copytree(RUNS / CELL, tmp_path / "scratch" / CELL)
    (record, *_) = sorted((tmp_path / "scratch").rglob("seed-0.json"))
    record.with_suffix(".evaluations").mkdir(exist_ok=True)
    (record.with_suffix(".evaluations") / "online.json").write_text("{}")
    return tmp_path / "scratch"


@pytest.fixture
def collect(scratch, tmp_path, capsys):
    """Collect to a folder beside it; returns (exit code, standard output, standard error)."""

    def call() -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["collect", str(scratch), "--results-dir", str(tmp_path / "kept")])
        return stop.value.code, *capsys.readouterr()

    return call


def files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_records_and_what_lies_beside_them_are_copied_once(collect, scratch, tmp_path):
    count = len(list(scratch.rglob("seed-*.json")))
    code, out, err = collect()
    assert code == 0 and out == f"{count} records: {count} collected, 0 there already, 0 refused\n", out + err
    assert files(tmp_path / "kept") == files(scratch)
    assert collect()[1] == f"{count} records: 0 collected, {count} there already, 0 refused\n"


def test_a_record_changed_by_hand_is_refused(collect, scratch, tmp_path):
    path = next(scratch.rglob("seed-0.json"))
    table = json.loads(path.read_text())
    table["result"]["score"] += 0.1
    path.write_text(json.dumps(table))
    code, out, err = collect()
    assert code == 2 and " 1 refused" in out, out + err
    assert err.startswith(f"refused: {path} is not as its run wrote it: its score is ")
    assert not (tmp_path / "kept" / path.relative_to(scratch)).exists()


def test_other_results_are_never_written_over(collect, scratch, tmp_path):
    collect()
    kept = next((tmp_path / "kept").rglob("seed-0.json"))
    table = json.loads(kept.read_text())
    table["result"]["score"] += 0.1
    kept.write_text(json.dumps(table))
    before = kept.read_bytes()
    code, out, err = collect()
    path = scratch / kept.relative_to(tmp_path / "kept")
    assert (code, err) == (2, f"refused: {path} has other results than {kept}: delete the wrong one\n")
    assert kept.read_bytes() == before


def test_folders_that_cannot_be_are_named(scratch, tmp_path, capsys):
    for folder, said in ((tmp_path / "none", "there is no results folder"), (scratch, "is where results are kept")):
        with pytest.raises(SystemExit) as stop:
            main(["collect", str(folder), "--results-dir", str(scratch)])
        assert stop.value.code == 2 and said in capsys.readouterr().err
