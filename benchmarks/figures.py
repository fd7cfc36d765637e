"""Figures that documents show, drawn from committed records: `python -m omrlbench.figures SUITE`."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from omrlbench.errors import BenchError
from omrlbench.leaderboard_figures import numbers
from omrlbench.plots import BLUE
from omrlbench.record import RunRecord, read_record, write_atomic
from omrlbench.suite import suite_cells

COLUMNS = 4
GREY = "0.7"


def variants_figure(suite: str, results_dir: Path, path: Path) -> None:
    """The validation curves, one per seed, of every variant of a suite with one environment, over those of the first.

    Raises BenchError naming the first cell that has no record.
    """
    records: dict[str, list[RunRecord]] = {}
    for variant, config in suite_cells(suite):
        records.setdefault(variant, []).append(_record(variant, config.record_path(results_dir)))
    first, *others = records
    rows = -(-len(others) // COLUMNS)
    figure = Figure(figsize=(3 * COLUMNS, 2.6 * rows + 0.6), layout="constrained")
    panels = list(figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).flat)
    for axes, variant in zip(panels, others, strict=False):
        _draw(axes, records[first], GREY, first)
        _draw(axes, records[variant], BLUE, "this change")
        axes.set_title(fill(variant, 32), fontsize=9)
    for axes in panels[max(0, len(others) - COLUMNS) : len(others)]:
        axes.tick_params(labelbottom=True)
    for axes in panels[len(others) :]:
        axes.axis("off")
    axes = figure.axes[0]
    axes.set_ylim(-0.05, 1.05)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    figure.supxlabel("update")
    figure.supylabel("score on the validation tasks")
    figure.suptitle(_caption(list(records.values())), fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    write_atomic(path, buffer.getvalue())


def _draw(axes: Axes, records: Sequence[RunRecord], colour: str, label: str) -> None:
    for record in records:
        curve = record.result["curve"]
        axes.plot([point["step"] for point in curve], [point["score"] for point in curve], color=colour, label=label)
        label = None


def _caption(variants: Sequence[Sequence[RunRecord]]) -> str:
    c, seeds = variants[0][0].config, sorted({record.config["seed"] for records in variants for record in records})
    return (
        f"{c['algo']} on {c['env']}, {c['level']} data, {c['budget']} budget, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))} ({numbers(map(len, variants))} each), "
        "offline context, 10 validation tasks"
    )


def _record(variant: str, path: Path) -> RunRecord:
    if not path.exists():
        raise BenchError(f"no record of {variant!r}: {path}")
    return read_record(path)


if __name__ == "__main__":
    (name,) = sys.argv[1:]
    figures = Path("results/figures")
    figures.mkdir(parents=True, exist_ok=True)
    variants_figure(name, Path("results/runs"), figures / f"{name}.png")
