"""The package of docs/adding_a_method.md, really built and installed beside this one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = re.findall(r"```(?:toml|python)\n# (\S+)\n(.*?)```", (ROOT / "docs/adding_a_method.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the package installed in it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name, content in FILES:
        (source / name).write_text(content)
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--target", target]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, source], check=True)
    return target


def python(installed: Path, *arguments, **environment) -> subprocess.CompletedProcess:
    surroundings = os.environ | {"PYTHONPATH": str(installed)} | environment
    return subprocess.run([sys.executable, *map(str, arguments)], env=surroundings, capture_output=True, text=True)


def bench(installed: Path, *arguments) -> subprocess.CompletedProcess:
    return python(installed, "-c", "from omrlbench.cli import main; main()", *arguments)


def test_the_package_is_short():
    assert [name for name, _ in FILES] == ["pyproject.toml", "nearest_action.py", "test_nearest_action.py"]
    assert sum(content.count("\n") for _, content in FILES) < 100


def test_it_keeps_the_contract(installed, tmp_path):
    (tmp_path / "test_nearest_action.py").write_text(dict(FILES)["test_nearest_action.py"])
    done = python(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_listed_and_runs_and_earns_something(installed, tmp_path, data_dir):
    listed = bench(installed, "list", "algos").stdout
    assert re.search(r"^nearest_action +nearest-action *$", listed, re.MULTILINE), listed
    cell = ["--algo", "nearest_action", "--env", "sparse_point_robot", "--budget", "smoke"]
    done = bench(installed, "run", *cell, "--data-dir", data_dir, "--results-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    score = re.search(r"score (-?\d\.\d\d) on 20 test tasks", done.stdout)
    assert float(score[1]) > 0.1  # sixteen transitions of the expert show part of the way
