"""The wheel holds the tree: every module and every data file of the three folders, and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"benchmarks": "omrlbench", "algorithms": "omrlbench/algorithms", "envs": "omrlbench/envs"}
SHIPPED = {".py", ".yaml", ".json", ".safetensors", ".xml", ".md", ".html", ".css", ".js"}


def tree(root: Path) -> dict[str, Path]:
    """Name in the wheel -> file, for everything that has to be shipped."""
    return {
        f"{package}/{path.relative_to(root / folder).as_posix()}": path
        for folder, package in FOLDERS.items()
        for path in (root / folder).rglob("*")
        if path.suffix in SHIPPED
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built from a copy, so that neither the tree nor an old build folder takes part."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "*.tmp"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_exactly_the_tree(wheel):
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == set(tree(ROOT))


def test_wheel_files_are_the_files_of_the_tree(wheel):
    for name, path in tree(ROOT).items():
        assert wheel.read(name) == path.read_bytes(), name


def test_wheel_has_both_commands(wheel):
    (name,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    commands = wheel.read(name).decode().splitlines()
    assert {"bench = omrlbench.cli:main", "omrlbench = omrlbench.cli:main"} <= set(commands)


def test_constraints_pin_every_dependency_by_name_and_version_only():
    import re
    import tomllib

    lines = (ROOT / "constraints.txt").read_text().split()
    pins = dict(line.split("==") for line in lines)
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"]
    for extra in ("dev", "video", "docs", "ray", "slurm"):
        wanted += extras[extra]
    assert {re.match(r"[a-z0-9-]+", requirement)[0] for requirement in wanted} <= set(pins)
    assert pins["torch"] == "2.13.0"
