"""Rates measured in turns, so that whatever else the machine does slows all contenders alike."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from omrlbench.record import environment_facts


@dataclass(frozen=True)
class Contender:
    """Something to measure. `run` does a fixed amount of work and returns how many steps that was.

    `target` is how many times as fast as this one the first contender is meant to be.
    """

    name: str
    run: Callable[[], int]
    target: float | None = None


def take_turns(
    contenders: Sequence[Contender], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> np.ndarray:
    """Steps per second of `clock` (rounds, contenders). A round has one run of each, after one that is not timed.

    Every round begins with another contender.
    """
    for contender in contenders:
        contender.run()
    rates = np.empty((rounds, len(contenders)))
    for k in range(rounds):
        for column in np.roll(np.arange(len(contenders)), -k):
            start = clock()
            steps = contenders[column].run()
            rates[k, column] = steps / (clock() - start)
    return rates


def table(title: str, contenders: Sequence[Contender], rates: np.ndarray) -> str:
    """Markdown: median rates, and how many times as fast the first contender is, a ratio taken in every round."""
    lines = [f"| {title} | steps/s | the first is faster by | in single rounds | target |", "|---|---|---|---|---|"]
    for contender, column, ratio in zip(contenders, rates.T, (rates[:, :1] / rates).T, strict=True):
        cells = [contender.name, f"{np.median(column):,.0f}"]
        if contender is contenders[0]:
            cells += ["", "", ""]
        else:
            goal = "" if contender.target is None else f"{contender.target:g}x"
            cells += [f"{np.median(ratio):.2f}x", f"{ratio.min():.2f}x to {ratio.max():.2f}x", goal]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def conditions(packages: Sequence[str]) -> str:
    """One line: when and on what this is measured, with the versions of `packages` that are installed."""
    facts = environment_facts(None, "cpu")
    versions = [f"{name} {facts['versions'][name]}" for name in packages if facts["versions"].get(name)]
    return ", ".join([time.strftime("%Y-%m-%d"), f"{facts['cores']} cores of {facts['cpu']}", *versions])
