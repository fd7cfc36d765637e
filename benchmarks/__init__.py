"""OMRL-Bench: a benchmark suite for offline meta-reinforcement learning.

The names below are imported when first used, so that `import omrlbench` takes no time.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

_HOMES = {
    "load_dataset": "omrlbench.data.store",
    "load_imported": "omrlbench.data.importers",
    "qlearning_dataset": "omrlbench.data.d4rl",
    "sequence_dataset": "omrlbench.data.d4rl",
    "get_normalized_score": "omrlbench.data.d4rl",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("omrl-bench")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
