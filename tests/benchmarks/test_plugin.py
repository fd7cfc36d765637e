"""The packages of docs/adding_a_method.md and adding_an_environment.md, really built and installed beside this one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def files(page: str) -> dict[str, str]:
    """The files that a page shows, by name."""
    return dict(re.findall(r"```(?:toml|python)\n# (\S+)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL))


METHOD, ENVIRONMENT = files("adding_a_method.md"), files("adding_an_environment.md")


def write(files: dict[str, str], source: Path) -> None:
    for name, content in files.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(content)


def install(source: Path, target: Path) -> Path:
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--target", target]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, source], check=True)
    return target


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the method's package installed in it."""
    source = tmp_path_factory.mktemp("source")
    write(METHOD, source)
    return install(source, tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with the meta-environment's package installed in it, its tasks drawn."""
    source = tmp_path_factory.mktemp("source")
    write(ENVIRONMENT, source)
    subprocess.run([sys.executable, "draw_tasks.py"], cwd=source, check=True)
    return install(source, tmp_path_factory.mktemp("target"))


def python(installed: Path, *arguments, **environment) -> subprocess.CompletedProcess:
    surroundings = os.environ | {"PYTHONPATH": str(installed)} | environment
    return subprocess.run([sys.executable, *map(str, arguments)], env=surroundings, capture_output=True, text=True)


def bench(installed: Path, *arguments) -> subprocess.CompletedProcess:
    return python(installed, "-c", "from omrlbench.cli import main; main()", *arguments)


def test_the_package_is_short():
    assert list(METHOD) == ["pyproject.toml", "nearest_action.py", "test_nearest_action.py"]
    assert sum(content.count("\n") for content in METHOD.values()) < 100


def test_it_keeps_the_contract(installed, tmp_path):
    (tmp_path / "test_nearest_action.py").write_text(METHOD["test_nearest_action.py"])
    done = python(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_listed_and_runs_and_earns_something(installed, tmp_path, data_dir):
    listed = bench(installed, "list", "algos").stdout
    assert re.search(r"^nearest_action +context +logs +nearest-action *$", listed, re.MULTILINE), listed
    cell = ["--algo", "nearest_action", "--env", "sparse_point_robot", "--budget", "smoke"]
    done = bench(installed, "run", *cell, "--data-dir", data_dir, "--results-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    score = re.search(r"score (-?\d\.\d\d) on 20 test tasks", done.stdout)
    assert float(score[1]) > 0.1  # sixteen transitions of the expert show part of the way
    other = ["--algo", "do_nothing", "--env", "sparse_point_robot", "--budget", "smoke"]
    assert bench(installed, "run", *other, "--data-dir", data_dir, "--results-dir", tmp_path).returncode == 0
    sides = ["nearest_action", "do_nothing", "--budget", "smoke", "--results-dir", tmp_path]
    done = bench(installed, "compare", *sides)
    assert done.returncode == 5 and "1 and 1" in done.stdout and "too few runs" in done.stdout, done.stderr


def test_a_meta_environment_keeps_the_contract_trains_its_policies_and_runs(world, tmp_path):
    (tmp_path / "test_sliding_block.py").write_text(ENVIRONMENT["test_sliding_block.py"])
    done = python(world, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^sliding_block +6 / 2 / 2 +20 .*sliding-block *$", bench(world, "list", "envs").stdout, re.M)

    places = ["--data-dir", tmp_path / "data", "--results-dir", tmp_path / "results"]
    cell = ["run", "--algo", "focal", "--env", "sliding_block", "--budget", "smoke", *places]
    refused = bench(world, *cell)
    assert refused.returncode == 2 and "bench data train-behavior sliding_block" in refused.stderr
    done = bench(world, "data", "train-behavior", "sliding_block", "--results-dir", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    assert (world / "sliding_block/policies/sliding_block-conditioned.safetensors").exists()
    done = python(world, "-m", "omrlbench.envs.references", "sliding_block")
    assert done.returncode == 0 and "sliding_block" in (world / "sliding_block/references.json").read_text(), (
        done.stderr
    )
    done = bench(world, *cell)
    assert done.returncode == 0, done.stderr
    assert "focal on sliding_block, expert data: score" in done.stdout and len(list(tmp_path.rglob("seed-0.png"))) == 1
    shown = bench(world, "data", "show", "sliding_block", *places)
    assert shown.returncode == 0 and "not a leaderboard dataset" in shown.stdout, shown.stderr
