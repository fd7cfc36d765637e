"""Returns that papers print for methods and meta-environments of the suite, read from `published.yaml`."""

from importlib.resources import files
from typing import NamedTuple

import yaml


class Published(NamedTuple):
    """A mean return over test tasks, and the spread that `source` prints beside it."""

    method: str
    env: str
    protocol: str
    mean: float
    spread: float
    source: str


def published() -> list[Published]:
    return [Published(**row) for row in yaml.safe_load((files("omrlbench") / "published.yaml").read_text())]
