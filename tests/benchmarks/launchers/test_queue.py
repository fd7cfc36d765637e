"""What is noted of Slurm's jobs is found again, however the results folder is written."""

import json
from pathlib import Path

import pytest

from omrlbench.launchers import queue
from omrlbench.sweep import PENDING, RUNNING, find_cells


@pytest.mark.parametrize("folder", ["results", "link", "elsewhere/../results"])
def test_jobs_are_found_by_their_cells(tmp_path, monkeypatch, folder):
    (tmp_path / "results" / queue.FOLDER).mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(queue.shutil, "which", lambda name: name)
    monkeypatch.setattr(queue, "job_states", lambda: {"7_0": "RUNNING", "7_1": "PENDING"})
    cells = find_cells("smoke", Path(folder))[:2]
    resolved = Path(folder).resolve()  # as the launcher has it
    queue.note_jobs(resolved, cells, ["7_0", "7_1"])
    assert len(json.loads((resolved / queue.FOLDER / "7.json").read_text())) == 2
    assert queue.queued_jobs(resolved, cells) == {id(cells[0]): "7_0", id(cells[1]): "7_1"}
    again = find_cells("smoke", Path(folder))[:2]
    queue.queued_jobs(Path(folder), again)
    assert [cell.state for cell in again] == [RUNNING, PENDING]
