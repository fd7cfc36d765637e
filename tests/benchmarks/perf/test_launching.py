"""The script runs real cells and says how many finished and what the launcher added."""

import re

from click.testing import CliRunner

from omrlbench.perf.launching import main


def test_a_row_per_launcher(data_dir, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(data_dir))
    done = CliRunner().invoke(main, ["--cells", "2", "--only", "do_nothing", "local"])
    assert done.exit_code == 0, done.output
    assert re.search(r"^\| local \| 2 \| \d+ s \| \d+\.\d\d s \| \d+\.\d\d s \|$", done.output, re.MULTILINE)
