import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from omrlbench import registry


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
