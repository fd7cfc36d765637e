"""The leaderboard's figures, as png and svg, equal bytes for equal records.

A method has one colour, line style and marker everywhere: the palette is for the colour-blind, and line style and
marker tell methods apart in grey. Every figure prints split, seeds, budget and n.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from omrlbench.envs.registry import get_meta_env
from omrlbench.leaderboard import UNTRAINED, Cell, Leaderboard
from omrlbench.record import write_atomic
from omrlbench.stats import Estimate, mean_interval, performance_profile, probability_of_improvement
from omrlbench.training import curve_split, evaluation_steps

REFERENCE = "focal"  # what others are compared with
SHOWN_SCORES = (-0.15, 1.25)
THRESHOLDS = np.linspace(-0.1, 1.1, 121)
INCOMPLETE = "no method has a seed in each of these yet"
COLUMNS = 4  # panels side by side
PIXELS_PER_INCH = 110
METADATA: dict[str, dict[str, None]] = {".png": {}, ".svg": {"Date": None}}  # of each format that figures have

_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _BROWN, _PINK, _GREY, _, _SKY = sns.color_palette("colorblind")


class Style(NamedTuple):
    colour: tuple[float, float, float] | str
    line: str
    marker: str


STYLES = {
    "focal": Style(_BLUE, "-", "o"),
    "focal_probabilistic": Style(_SKY, "--", "s"),
    "focal_coupled": Style(_PURPLE, "-.", "^"),
    "batch_pearl": Style(_ORANGE, "-", "D"),
    "batch_pearl_brac": Style(_RED, "--", "v"),
    "contextual_bcq": Style(_GREEN, "-.", "P"),
    "mbml": Style(_PINK, "-", "X"),
    "bc": Style(_BROWN, ":", "<"),
    "no_context": Style(_GREY, "--", ">"),
    "oracle_task": Style("black", "-", "*"),
    "random_policy": Style("0.65", ":", "h"),
    "do_nothing": Style("0.5", "-.", "d"),
    "expert_policy": Style("0.25", "--", "p"),
}


def draw_all(board: Leaderboard, folder: Path) -> list[Path]:
    """Write every figure into `folder`; returns the paths."""
    with looks():
        return [path for name, figure in figures(board).items() for path in save(figure, folder / name)]


def svgs(board: Leaderboard) -> dict[str, bytes]:
    """Every figure, by the name of its file."""
    with looks():
        return {f"{name}.svg": encoded(figure, ".svg") for name, figure in figures(board).items()}


def figures(board: Leaderboard) -> dict[str, Figure]:
    return {
        "leaderboard_environments": environments(board),
        "leaderboard_curves": curves(board),
        "leaderboard_aggregates": aggregate_intervals(board),
        "leaderboard_profiles": profiles(board),
        "leaderboard_improvement": improvement(board),
    }


@contextmanager
def looks() -> Iterator[None]:
    """Inside, figures have the suite's looks, and equal ones equal bytes."""
    with sns.axes_style("whitegrid"), matplotlib.rc_context({"svg.hashsalt": "omrlbench"}):
        yield


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `figure` as png and svg beside each other; the paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_suffix(suffix) for suffix in METADATA]
    for path in paths:
        write_atomic(path, encoded(figure, path.suffix))
    return paths


def encoded(figure: Figure, suffix: str) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=suffix[1:], dpi=PIXELS_PER_INCH, metadata=METADATA[suffix])
    return content.getvalue()


def environments(board: Leaderboard) -> Figure:
    """Mean score of every method in every meta-environment, with Student's t interval."""
    figure, panels = grid(board, 0.22 * len(board.methods) + 0.8, "mean score", sharey=True, sharex=True)
    for axes, column in zip(panels, board.columns, strict=True):
        estimates = {method: board.cells[column, method].estimate for method in board.methods}
        for place, (method, estimate) in enumerate(estimates.items()):
            if estimate:
                axes.barh(place, estimate.value, color=STYLES[method].colour, height=0.7)
                interval(axes, place, estimate, "black", 1.2)
                axes.text(1.24, place, f"{estimate.n[0]}", ha="right", va="center", fontsize=7, color="0.3")
                if estimate.value < SHOWN_SCORES[0]:
                    axes.text(0.02, place, f"◂ {estimate.value:.2f}", ha="left", va="center", fontsize=7)
        if not any(estimates.values()):
            note(axes, "no runs yet")
        axes.set_yticks(range(len(estimates)), estimates, fontsize=8)
        axes.axvline(0, color="0.3", linewidth=0.8)
        axes.set_xlim(*SHOWN_SCORES)
        axes.grid(axis="y", visible=False)
    panels[0].set_ylim(len(board.methods) - 0.4, -0.6)
    about = "score on the test tasks: 0 random, 1 expert; lines: 95 % intervals, Student's t; at the right: n"
    finish(figure, board, "Score in every meta-environment", about)
    return figure


def curves(board: Leaderboard) -> Figure:
    """Mean score over updates, on validation tasks where there are some."""
    figure, panels = grid(board, 2.3, "update", sharey=True)
    shown = {}
    lowest = -0.15
    for axes, column in zip(panels, board.columns, strict=True):
        cells = {method: board.cells[column, method] for method in board.methods}
        below = []
        if not any(cell.runs for cell in cells.values()):
            note(axes, "no runs yet")
        for method, cell in cells.items():
            if not cell.runs:
                continue
            steps, estimates = curve(cell)
            if method in UNTRAINED:  # have a level, no curve
                style = STYLES[method]
                shown[method] = axes.axhline(estimates[-1].value, color=style.colour, linestyle=style.line)
                continue
            shown[method] = line(axes, method, steps, estimates, markevery=0.2)
            if method == REFERENCE:
                band(axes, method, steps, estimates)
            if estimates[-1].value < lowest:
                below.append(f"▾ {method} ends at {estimates[-1].value:.2f}")
        places = {"ha": "right", "va": "bottom", "fontsize": 7, "transform": axes.transAxes}
        axes.text(0.98, 0.03, "\n".join(below), bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, **places)
        split = curve_split(get_meta_env(column[0]).tasks)
        axes.set_title(f"{axes.get_title()}\n{split} tasks", fontsize=9)
        axes.set_ylim(lowest, 1.15)
    for axes in panels[::COLUMNS]:
        axes.set_ylabel("mean score", fontsize=9)
    legend(figure, shown)
    about = (
        f"score: 0 random, 1 expert; band: 95 % interval of {REFERENCE}, Student's t; a diverged run counts with its "
        f"floor score from there on; {numbers(len(cell.runs) for cell in board.cells.values())}"
    )
    finish(figure, board, "Score during training", about)
    return figure


def curve(cell: Cell) -> tuple[list[int], list[Estimate]]:
    """Updates, and at each the mean score of all runs; a diverged one has its floor score after its last point."""
    training = cell.config.training
    steps = evaluation_steps(training.steps, training.eval_interval)
    scores = [[point["score"] for point in run.result["curve"]] for run in cell.runs.values()]
    floors = [run.result["score"] for run in cell.runs.values()]
    padded = [run + [floor] * (len(steps) - len(run)) for run, floor in zip(scores, floors, strict=True)]
    return steps, [mean_interval(column) for column in zip(*padded, strict=True)]


def aggregate_intervals(board: Leaderboard) -> Figure:
    """Aggregates over informative and over all meta-environments."""
    sets = {"informative, with held-out tasks": board.headline, "all meta-environments": board.columns}
    metrics = {"IQM": "IQM (higher is better)", "mean": "mean (higher is better)"}
    metrics["optimality gap"] = "optimality gap (lower is better)"
    figure = Figure(figsize=(11, 2 * (0.22 * len(board.methods) + 0.9) + 0.8), layout="constrained")
    rows = figure.subplots(len(sets), len(metrics), squeeze=False, sharey="row", sharex=True)
    reached = [0.0, 1.0]
    for panels, (name, columns) in zip(rows, sets.items(), strict=True):
        found = board.aggregates(columns)
        for axes, (metric, title) in zip(panels, metrics.items(), strict=True):
            for place, (method, estimates) in enumerate(found.items()):
                dot(axes, place, method, estimates[metric])
            labels = [f"{method} (n = {estimates['IQM'].n[0]})" for method, estimates in found.items()]
            axes.set_yticks(range(len(found)), labels, fontsize=8)
            axes.set_title(title, fontsize=9)
            reached += [estimates[metric].value for estimates in found.values()]
        panels[0].set_ylabel(f"{name}\n({len(columns)})", fontsize=9)
        panels[0].invert_yaxis()
        if not found:
            note(panels[1], INCOMPLETE if columns else "there are none yet")
    rows[0, 0].set_xlim(min(reached) - 0.1, max(reached) + 0.1)
    about = "score on the test tasks: 0 random, 1 expert; bars: 95 % stratified bootstrap intervals"
    finish(figure, board, "Aggregate scores", about)
    return figure


def profiles(board: Leaderboard) -> Figure:
    """The share of runs above each score."""
    figure, axes = single(8.6, 5.2)
    shown, columns = {}, board.headline or board.columns
    found = board.aggregates(columns)
    for method in found:
        estimates = performance_profile(board.matrix(method, columns).rows, THRESHOLDS)
        shown[method] = line(axes, method, THRESHOLDS, estimates, markevery=10)
        if method == REFERENCE:
            band(axes, method, THRESHOLDS, estimates)
    if not found:
        note(axes, INCOMPLETE)
    axes.set(xlabel="score τ: 0 random, 1 expert", xlim=THRESHOLDS[[0, -1]])
    axes.set(ylabel="share of runs with score > τ", ylim=(-0.03, 1.03))
    legend(figure, shown)
    sizes = [estimates["IQM"].n[0] for estimates in found.values()]
    about = (
        f"test tasks of {names(columns)}; band: 95 % interval of {REFERENCE}, stratified bootstrap; {numbers(sizes)}"
    )
    finish(figure, board, "Performance profiles", about)
    return figure


def improvement(board: Leaderboard) -> Figure:
    """P(reference > method), a run of one against a run of the other in the same meta-environment.

    A single seed of a method says next to nothing of it, so it takes two.
    """
    columns = board.headline or board.columns
    found = board.aggregates(columns)
    several = [method for method, estimates in found.items() if estimates["IQM"].n[0] > 1 and method != REFERENCE]
    others = several if REFERENCE in found else []
    figure, axes = single(8.6, 0.24 * max(len(others), 4) + 1.8)
    for place, method in enumerate(others):
        rows = [board.matrix(one, columns).rows for one in (REFERENCE, method)]
        dot(axes, place, method, probability_of_improvement(*rows))
    if not others:
        note(axes, f"only {REFERENCE} has seeds in each of these yet" if REFERENCE in found else INCOMPLETE)
    labels = [f"{method} (n = {found[method]['IQM'].n[0]})" for method in others]
    axes.set_yticks(range(len(others)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0.5, color="0.3", linewidth=0.8)
    axes.set(xlabel=f"P({REFERENCE} > method), ties count half", xlim=(-0.02, 1.02))
    n = f"{REFERENCE}: n = {found[REFERENCE]['IQM'].n[0]}" if REFERENCE in found else f"{REFERENCE} is not complete"
    about = f"scores on the test tasks of {names(columns)}; bars: 95 % stratified bootstrap intervals; {n}"
    finish(figure, board, f"Probability that {REFERENCE} improves on another method", about)
    return figure


def grid(board: Leaderboard, height: float, xlabel: str, **shared: bool) -> tuple[Figure, list[Axes]]:
    """A panel per column of the leaderboard, with its title."""
    rows = -(-len(board.columns) // COLUMNS)
    figure = Figure(figsize=(3.1 * COLUMNS + 1.2, rows * height + 1.4), layout="constrained")
    axes = list(figure.subplots(rows, COLUMNS, squeeze=False, **shared).flat)
    for surplus in axes[len(board.columns) :]:
        surplus.axis("off")
    panels = axes[: len(board.columns)]
    for panel, (env, level) in zip(panels, board.columns, strict=True):
        panel.set_title(f"{env}, {level} data", fontsize=9)
        panel.tick_params(labelsize=8, labelbottom=True)
    for panel in panels[-COLUMNS:]:
        panel.set_xlabel(xlabel, fontsize=9)
    return figure, panels


def single(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def line(axes: Axes, method: str, x: Sequence[float], estimates: Sequence[Estimate], markevery: float) -> Line2D:
    style = STYLES[method]
    look = {"color": style.colour, "linestyle": style.line, "marker": style.marker, "markersize": 5, "linewidth": 1.4}
    return axes.plot(x, [estimate.value for estimate in estimates], **look, markevery=markevery)[0]


def band(axes: Axes, method: str, x: Sequence[float], estimates: Sequence[Estimate]) -> None:
    if estimates[0].low is not None:
        low, high = np.transpose([(estimate.low, estimate.high) for estimate in estimates])
        axes.fill_between(x, low, high, color=STYLES[method].colour, alpha=0.2, linewidth=0)


def dot(axes: Axes, place: float, method: str, estimate: Estimate) -> None:
    style = STYLES[method]
    interval(axes, place, estimate, style.colour, 5, alpha=0.45)
    axes.plot(estimate.value, place, style.marker, color=style.colour, markersize=5)


def interval(axes: Axes, place: float, estimate: Estimate, colour: Any, width: float, alpha: float = 1.0) -> None:
    if estimate.low is not None:
        axes.hlines(place, estimate.low, estimate.high, color=colour, linewidth=width, alpha=alpha, zorder=3)


def note(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.3")


def legend(figure: Figure, lines: dict[str, Line2D]) -> None:
    figure.legend(lines.values(), lines, loc="outside right center", frameon=False, fontsize=8, handlelength=3.5)


def names(columns: Sequence[tuple[str, str]]) -> str:
    return ", ".join(env for env, _ in columns)


def numbers(sizes: Iterable[int]) -> str:
    """How many runs a point stands for, as "n = 3 to 5"."""
    present = sorted(filter(None, sizes)) or [0]
    return f"n = {present[0]}" if present[0] == present[-1] else f"n = {present[0]} to {present[-1]}"


def finish(figure: Figure, board: Leaderboard, title: str, about: str) -> None:
    """Title, and below the panels what the figure is of."""
    seeds = sorted({seed for cell in board.cells.values() for seed in cell.runs})
    of = (
        f"suite {board.suite}, {board.budget} budget, offline context, seeds {', '.join(map(str, seeds)) or 'none yet'}"
    )
    figure.suptitle(title, fontsize=12)
    figure.supxlabel(fill(f"{of}; {about}", int(12.5 * figure.get_figwidth())), fontsize=8, color="0.3")
