"""Rates and ratios against values worked out by hand."""

from importlib.metadata import version

import numpy as np

from omrlbench.perf.turns import Contender, conditions, table, take_turns


def contender(name, now, steps, seconds, log):
    """`now` is a clock that moves only when told to."""

    def run():
        log.append(name)
        now[0] += seconds
        return steps

    return Contender(name, run)


def test_everyone_runs_once_untimed_and_then_in_turn():
    log, now = [], [0.0]
    pair = [contender("a", now, 10, 2.0, log), contender("b", now, 9, 3.0, log)]
    np.testing.assert_array_equal(take_turns(pair, rounds=3, clock=lambda: now[0]), [[5.0, 3.0]] * 3)
    assert "".join(log) == "ab" + "ab" + "ba" + "ab"


def test_table_takes_medians_of_rates_and_of_the_ratios_within_rounds():
    pair = [Contender("ours", int), Contender("theirs", int, target=4.0), Contender("other", int)]
    rates = np.array([[10.0, 2.0, 10.0], [20.0, 5.0, 10.0], [1200.0, 200.0, 300.0]])
    title, rule, *rows = table("work", pair, rates).splitlines()
    assert title.startswith("| work | steps/s |") and title.count("|") == rule.count("|")
    assert rows == [
        "| ours | 20 |  |  |  |",
        "| theirs | 5 | 5.00x | 4.00x to 6.00x | 4x |",
        "| other | 10 | 2.00x | 1.00x to 4.00x |  |",
    ]


def test_conditions_name_the_versions_that_are_installed():
    line = conditions(["mujoco", "no_such_package"])
    assert f"mujoco {version('mujoco')}" in line
    assert "no_such_package" not in line and " cores of " in line
