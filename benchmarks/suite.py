"""Suites: the cells that a leaderboard or a comparison promises, read from `suites/*.yaml`.

A suite names methods, environments, levels, seeds and a budget; its cells are their product. Without levels each
environment has its default. `variants`, where it has them, are named lists of "key=value" changes to the configuration,
and `eval_split` is "validation" in a comparison that chooses values. A suite of several such products lists what they
differ in under `blocks`.
"""

from dataclasses import replace
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from omrlbench.config import RunConfig, resolve
from omrlbench.errors import unknown

DEVICE = "cpu"  # of cells that say no other
DEFAULTS: dict[str, Any] = {"eval_split": "test", "levels": [None], "variants": {"default": []}}


def suite_names() -> list[str]:
    return sorted(Path(file.name).stem for file in (files("omrlbench") / "suites").iterdir())


def suite_cells(suite: str, budget: str | None = None, device: str = DEVICE) -> list[tuple[str, RunConfig]]:
    """Every cell of the suite as (variant, configuration); a suite without variants has one, "default".

    `budget` takes the place of the suite's own.
    """
    if suite not in suite_names():
        raise unknown("suite", suite, suite_names())
    stored = yaml.safe_load((files("omrlbench") / "suites" / f"{suite}.yaml").read_text())
    replaced = {} if budget is None else {"budget": budget}
    on_device = [] if device == DEVICE else [f"device={device}"]
    blocks = [DEFAULTS | stored | block | replaced for block in stored.pop("blocks", [{}])]
    return [cell for block in blocks for cell in _product(block, on_device)]


def _product(table: dict[str, Any], on_device: list[str]) -> list[tuple[str, RunConfig]]:
    shared = {"budget": table["budget"], "eval_split": table["eval_split"]}
    cells = []
    for env, algo, level, variant in product(table["envs"], table["algos"], table["levels"], table["variants"]):
        overrides = [*table["variants"][variant], *on_device]
        config = resolve(env, algo, level=level, overrides=overrides, **shared)
        cells += [(variant, replace(config, seed=seed)) for seed in table["seeds"]]
    return cells
