import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from omrlbench import registry, training
from omrlbench.config import resolve


@pytest.fixture
def tiny(monkeypatch) -> None:
    """The registry knows `tiny_method.Cloning` as tiny."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setitem(registry.ALGORITHMS, "tiny", "tiny_method:Cloning")


@pytest.fixture
def interrupted_at(tiny, monkeypatch) -> Callable[[int], AbstractContextManager[None]]:
    """Inside `with interrupted_at(step)`, update `step` of a tiny run comes with a SIGINT to this process."""
    from tiny_method import Cloning

    @contextmanager
    def interrupting(step: int) -> Iterator[None]:
        original = Cloning.update

        def update(self, batch):
            if self.updates == step - 1:
                os.kill(os.getpid(), signal.SIGINT)
            return original(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(Cloning, "update", update)
            yield

    return interrupting


@pytest.fixture(scope="session")
def finished(tmp_path_factory, data_dir) -> Path:
    """A results folder with real runs on sparse_point_robot of methods that learn nothing."""
    folder = tmp_path_factory.mktemp("finished")
    for algo, seed in [
        ("do_nothing", 0),
        ("do_nothing", 1),
        ("random_policy", 0),
        ("random_policy", 1),
        ("random_policy", 7),
    ]:
        training.run(resolve("sparse_point_robot", algo, seed=seed), results_dir=folder, data_dir=data_dir)
    return folder


@pytest.fixture
def runs(finished, tmp_path) -> Path:
    """A copy of `finished` for one test."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


@pytest.fixture
def edit() -> Callable[[Path, Callable[[dict], object]], None]:
    """Change a stored record by hand."""

    def editing(path: Path, change: Callable[[dict], object]) -> None:
        stored = json.loads(path.read_text())
        change(stored)
        path.write_text(json.dumps(stored))

    return editing
