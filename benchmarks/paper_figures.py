"""The figures and tables of the FOCAL paper, drawn from our own records: `bench figure fig4`.

Li, Yang and Luo, ICLR 2021. Each entry of `FIGURES` is what the paper's caption promises, as panels. Embeddings and
curves are those that run records keep, so that a fresh clone can draw them. docs/figures.md says what differs.
"""

import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import ClassVar

import numpy as np
import seaborn as sns
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from omrlbench.claims import BUDGET, FOCAL, INVERSE, LINEAR, POLICY_ALONE, SQUARE, VALUE_PENALTY, Side
from omrlbench.config import RunConfig, resolve
from omrlbench.data.store import load_dataset
from omrlbench.envs.point_robot import GOAL_RADIUS
from omrlbench.envs.references import reference_returns
from omrlbench.envs.registry import get_meta_env
from omrlbench.errors import BenchError, unknown
from omrlbench.leaderboard_figures import STYLES, Style, legend, looks, numbers, save
from omrlbench.record import RunRecord, evaluations_folder, read_evaluation
from omrlbench.stats import mean_interval
from omrlbench.training import HEADLINE_PROTOCOL
from omrlbench.verification import stale_reason, verified_record

Need = tuple[Side, str]  # a method and its meta-environment
Found = Mapping[Need, Mapping[int, RunRecord]]  # runs by seed

BASELINES = (FOCAL, Side("batch_pearl"), Side("contextual_bcq"), Side("mbml"))
POWERS = (FOCAL, INVERSE, LINEAR, SQUARE)
ENCODERS = (FOCAL, Side("focal_probabilistic"), Side("batch_pearl"), Side("batch_pearl_brac"))
COUPLED = (FOCAL, Side("focal_coupled"))
COUPLED_VALUE_PENALTY, COUPLED_POLICY_ALONE = (
    tuple(Side(side.algo, changes=changes) for side in COUPLED) for changes in (VALUE_PENALTY, POLICY_ALONE)
)
REWARDS = ("sparse_point_robot", "cheetah_vel", "cheetah_fwd_back", "ant_fwd_back")
DYNAMICS = ("point_robot_wind", "walker_params")
LEVELS = ("random", "medium", "expert")
LOOKS = STYLES | {  # the power laws are of this module alone
    "focal_inverse": STYLES["focal_probabilistic"],
    "focal_linear": STYLES["batch_pearl"],
    "focal_square": STYLES["contextual_bcq"],
}
WIDTH, HEIGHT = 4.2, 3.9  # of a panel, inches
LEGEND_WIDTH = 2.2  # to the right of the panels
SHOWN_EPISODES = 100
LEAST_Q = 10.0  # where the symmetric logarithm of Q-values begins


@dataclass(frozen=True)
class Source:
    """Where records are, and of which budget."""

    results_dir: Path
    budget: str

    def config(self, need: Need) -> RunConfig:
        side, env = need
        return resolve(env, side.algo, level=side.level, budget=self.budget, overrides=side.changes)


class Panel(ABC):
    """One pair of axes."""

    suite = "core"
    projection: str | None = None
    marks: ClassVar[str] = ""  # for the caption

    def suite_of(self, side: Side) -> str:
        """The suite that has the runs of a side in `needs`."""
        return "ablations" if side.changes else self.suite

    @property
    def needs(self) -> Sequence[Need]:
        return ()

    @abstractmethod
    def draw(self, axes: Axes, found: Found, source: Source) -> None:
        """Draw the runs that `needs` names."""


@dataclass(frozen=True)
class Curves(Panel):
    """A metric over the updates of the last stage, with Student's 95 % interval over seeds."""

    env: str
    sides: tuple[Side, ...]
    suite: str = "core"
    logarithmic: bool = False
    marks = (
        "bands: 95 % intervals over seeds, Student's t; dotted: expert (dark) and random (light); a diverged run keeps "
        "its last value"
    )

    @property
    def needs(self):
        return [(side, self.env) for side in self.sides]

    def draw(self, axes, found, source):
        for need in self.needs:
            steps, values = seeds_by_step(found[need], self.value)
            draw_line(axes, need[0], steps, values)
        self.label(axes, next(iter(found[self.needs[0]].values())))
        axes.set_xlabel("update")
        if self.logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.xaxis.set_minor_formatter(NullFormatter())

    def value(self, point: Mapping) -> float:
        return float(np.mean(point["returns"]))

    def label(self, axes: Axes, record: RunRecord) -> None:
        split = record.result["curve"][0]["split"]
        references = reference_returns(self.env, split)
        axes.axhline(references.expert, color="0.4", linestyle=":", linewidth=1)
        axes.axhline(references.random, color="0.7", linestyle=":", linewidth=1)
        axes.set(title=f"{self.env}, {record.config['level']} data", ylabel=f"mean return, {split} tasks")


@dataclass(frozen=True)
class QValues(Curves):
    """The largest Q-value of the critics' minimum in a batch, averaged between two evaluations."""

    marks = "bands: 95 % intervals over seeds, Student's t; a diverged run keeps its last value"

    def value(self, point):
        value = point["metrics"].get("q_value_max")
        return np.nan if value is None else value

    def label(self, axes, record):
        axes.set_yscale("symlog", linthresh=LEAST_Q)
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.set(title=f"{self.env}, {record.config['level']} data", ylabel="largest Q-value in a batch")


@dataclass(frozen=True)
class Embedding(Panel):
    """The codes of contexts of test tasks, by t-SNE or on the three widest coordinates; a colour per task."""

    env: str
    side: Side
    suite: str = "core"
    projection: str | None = None

    @property
    def needs(self):
        return [(self.side, self.env)]

    def draw(self, axes, found, source):
        seed, record = min(found[self.needs[0]].items())
        path = source.config(self.needs[0]).record_path(source.results_dir).with_name(f"seed-{seed}.npz")
        if not path.exists():
            raise BenchError(f"the embeddings are not beside the record: {path}; repeat that run")
        arrays, tasks = np.load(path), get_meta_env(self.env).tasks
        shown = np.isin(arrays["embedding_tasks"], tasks.splits["test"])
        ids, codes = arrays["embedding_tasks"][shown], arrays["embeddings"][shown]
        place = {task: k for k, task in enumerate(sorted(set(ids), key=lambda task: tuple(tasks.parameters[task])))}
        colours = colormaps["tab20"](np.array([place[task] for task in ids]) % 20)
        if self.projection:
            widest = np.argsort(codes.std(0))[-3:]
            axes.scatter(*codes[:, widest].T, c=colours, s=10, depthshade=False)
            axes.set(**{f"{axis}label": f"z[{k}]" for axis, k in zip("xyz", widest, strict=True)})
        else:
            axes.scatter(*t_sne(codes).T, c=colours, s=12, linewidths=0)
            axes.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
        each = len(ids) // len(place)
        axes.set_title(f"{self.side}\n{self.env}, {len(place)} test tasks x {each} contexts, seed {seed}", fontsize=9)


@dataclass(frozen=True)
class Separation(Panel):
    """Table 1: effective separation rate and RMS distance of the training tasks' embeddings."""

    env: str
    sides: tuple[Side, ...]
    measure: str
    suite: str = "core"
    marks = "strokes: runs; symbols and numbers: their means"

    @property
    def needs(self):
        return [(side, self.env) for side in self.sides]

    def draw(self, axes, found, source):
        for place, need in enumerate(self.needs):
            runs = found[need].values()
            values = [run.result["curve"][-1]["embedding"]["train"][self.measure] for run in runs]
            look, estimate = LOOKS[need[0].algo], mean_interval(values)
            axes.plot(values, np.full(len(values), place), "|", color=look.colour, markersize=9)
            axes.plot(estimate.value, place, look.marker, color=look.colour)
            axes.text(1.02, place, f"{estimate.value:.2f}", transform=axes.get_yaxis_transform(), va="center")
        axes.set_yticks(range(len(self.sides)), [str(side) for side in self.sides])
        axes.set_ylim(len(self.sides) - 0.5, -0.5)
        axes.set_xlabel(f"{self.measure.replace('_', ' ')}, training tasks of {self.env}")


@dataclass(frozen=True)
class Episodes(Panel):
    """Paths of the behaviour policies of a level in the first test task, and where it gives reward."""

    env: str
    level: str

    def draw(self, axes, found, source):
        spec, dataset = get_meta_env(self.env), load_dataset(self.env, self.level)
        task = spec.tasks.splits["test"][0]
        rows = slice(dataset.task_start[task], dataset.task_start[task] + dataset.task_size[task])
        ends = np.flatnonzero((dataset.terminated | dataset.truncated)[rows].numpy()) + 1
        paths = np.split(dataset.observations[rows].numpy(), ends[:-1])
        chosen = np.linspace(0, len(paths) - 1, min(SHOWN_EPISODES, len(paths))).astype(int)
        for k in chosen:
            axes.plot(*paths[k].T, color=LOOKS["focal"].colour, linewidth=0.7, alpha=0.3)
        axes.add_patch(Circle(spec.tasks.parameters[task], GOAL_RADIUS, facecolor="none", edgecolor="red", linewidth=2))
        axes.set(title=f"{self.level} data, task {task}: {len(chosen)} episodes", xlabel="x", ylabel="y")
        axes.set(xlim=(-1.6, 1.6), ylim=(-1.2, 1.6), aspect="equal")


@dataclass(frozen=True)
class LevelShift(Panel):
    """Table 6: scores where contexts are of another level than the data that FOCAL learned from."""

    env: str
    suite: str = "level_shift"
    marks = "numbers: mean scores of the final parameters on the test tasks; crossed out: not evaluated"

    @property
    def needs(self):
        return [(Side("focal", level), self.env) for level in (*LEVELS, "mixed")]

    def draw(self, axes, found, source):
        levels = (*LEVELS, "mixed")
        grid = np.array([[self.score(need, found, source, level) for level in levels] for need in self.needs])
        bar = {"label": "score", "shrink": 0.7}
        sns.heatmap(grid, annot=True, fmt="z.2f", vmin=0, vmax=1, cmap="viridis", ax=axes, square=True, cbar_kws=bar)
        axes.grid(False)
        for row, column in np.argwhere(np.isnan(grid)):
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor="none", edgecolor="0.6", linewidth=0, hatch="xx"))
        axes.set_xticklabels(levels)
        axes.set_yticklabels(levels, rotation=0)
        axes.set(xlabel="level of the contexts", ylabel="level of the training data", title=self.env)

    def score(self, need: Need, found: Found, source: Source, level: str) -> float:
        """Of the final parameters, the mean over seeds, NaN where no evaluation has been made."""
        config, scores = source.config(need), []
        path = config.record_path(source.results_dir)
        for seed, record in found[need].items():
            if level == need[0].level:
                last = record.last_evaluation(HEADLINE_PROTOCOL)
                scores += [last["score"]] if last else []
                continue
            name = f"offline-{level}-test-{config.training.final_eval_episodes}.json"
            file = evaluations_folder(path.with_name(f"seed-{seed}.json")) / name
            scores += [read_evaluation(file).result["score"]] if file.exists() else []
        return float(np.mean(scores)) if scores else np.nan


@dataclass(frozen=True)
class Drawing:
    title: str
    panels: tuple[Panel, ...]
    columns: int = 4


def regularized_or_not(policy_alone: Side) -> tuple[Side, ...]:
    return policy_alone, Side("focal", changes=VALUE_PENALTY), Side("batch_pearl")


FIGURES = {
    "fig2": Drawing(
        "Figure 2: powers of the distance in the metric loss",
        (*(Embedding("cheetah_vel", side, "ablations") for side in POWERS), Curves("cheetah_vel", POWERS, "ablations")),
        columns=5,
    ),
    "fig3": Drawing(
        "Figure 3: FOCAL and the baselines", tuple(Curves(env, BASELINES) for env in REWARDS + DYNAMICS), columns=3
    ),
    "fig4": Drawing(
        "Figure 4: deterministic and probabilistic encoders, with and without behaviour regularisation",
        (
            *(Embedding("walker_params", s) for s in ENCODERS),
            *(Curves(e, ENCODERS) for e in ("cheetah_vel", DYNAMICS[1])),
        ),
        columns=3,
    ),
    "fig5": Drawing(
        "Figure 5: coupled gradients, value penalty",
        (
            *(Embedding("walker_params", side) for side in COUPLED_VALUE_PENALTY),
            Curves("walker_params", COUPLED_VALUE_PENALTY),
        ),
    ),
    "fig6": Drawing(
        "Figure 6: FOCAL and the baselines, every update",
        tuple(Curves(env, BASELINES, logarithmic=True) for env in (*REWARDS[1:], *DYNAMICS)),
        columns=3,
    ),
    "fig7": Drawing(
        "Figure 7: embeddings without t-SNE",
        tuple(Embedding("walker_params", side, projection="3d") for side in COUPLED),
    ),
    "fig8": Drawing(
        "Figure 8: the levels of the data", tuple(Episodes("sparse_point_robot", level) for level in LEVELS)
    ),
    "fig9": Drawing(
        "Figure 9: coupled gradients, policy regularisation",
        (
            *(Embedding("walker_params", side) for side in COUPLED_POLICY_ALONE),
            Curves("walker_params", COUPLED_POLICY_ALONE),
        ),
    ),
    "fig10": Drawing(
        "Figure 10: Q-values on the ant", (QValues("ant_fwd_back", regularized_or_not(FOCAL)),), columns=1
    ),
    "fig11": Drawing(
        "Figure 11: Q-values on the walker",
        (QValues("walker_params", regularized_or_not(COUPLED_POLICY_ALONE[0])),),
        columns=1,
    ),
    "table1": Drawing(
        "Table 1: separation of the training tasks",
        tuple(Separation("cheetah_vel", POWERS, m, "ablations") for m in ("effective_separation_rate", "rms_distance")),
    ),
    "table6": Drawing("Table 6: contexts of another level", (LevelShift("sparse_point_robot"),), columns=1),
}


def draw_figure(name: str, results_dir: Path, folder: Path, budget: str = BUDGET) -> list[Path]:
    """Write the figure or table `name` as png and svg into `folder`; the paths.

    Raises BenchError with the command that makes the runs where one has none.
    """
    if name not in FIGURES:
        raise unknown("figure", name, FIGURES)
    drawing, source = FIGURES[name], Source(results_dir, budget)
    found = find_runs(drawing.panels, source)
    with looks():
        return save(draw_panels(drawing, found, source), folder / f"paper_{name}")


def find_runs(panels: Sequence[Panel], source: Source) -> Found:
    """The usable runs of every need. Raises BenchError naming the first that has none."""
    found = {}
    for panel in panels:
        for need in panel.needs:
            cell = source.config(need).record_path(source.results_dir).parent
            records = [verified_record(path, source.results_dir) for path in sorted(cell.glob("seed-?.json"))]
            usable = {record.config["seed"]: record for record in records if not stale_reason(record)}
            if not usable:
                command = command_for(panel, need, source)
                raise BenchError(
                    f"no run of {need[0]} on {need[1]} at the {source.budget} budget; make some: {command}"
                )
            found[need] = usable
    return found


def command_for(panel: Panel, need: Need, source: Source) -> str:
    """What makes the runs: suites are of one budget."""
    side, env = need
    place = f"--results-dir {shlex.quote(str(source.results_dir))}"
    if source.budget == BUDGET:
        only = f"algo={side.algo},env={env}" + (f",level={side.level}" if side.level else "")
        return f"bench sweep {panel.suite_of(side)} --only {only} {place}"
    values = "".join(f" --set {change}" for change in side.changes) + (f" --level {side.level}" if side.level else "")
    return f"bench run --algo {side.algo} --env {env} --budget {source.budget}{values} {place}"


def draw_panels(drawing: Drawing, found: Found, source: Source) -> Figure:
    columns = min(drawing.columns, len(drawing.panels))
    rows = -(-len(drawing.panels) // columns)
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows + 1.0), layout="constrained")
    for place, panel in enumerate(drawing.panels, start=1):
        axes = figure.add_subplot(rows, columns, place, projection=panel.projection)
        panel.draw(axes, found, source)
    lines = {label: line for axes in figure.axes for label, line in labelled(axes).items()}
    if lines:
        figure.set_figwidth(figure.get_figwidth() + LEGEND_WIDTH)
        legend(figure, lines)
    figure.suptitle(drawing.title)
    figure.supxlabel(fill(caption(drawing, found, source), int(11 * figure.get_figwidth())), fontsize=8, color="0.3")
    return figure


def labelled(axes: Axes) -> dict[str, Line2D]:
    """The lines of the legend, by label."""
    handles, labels = axes.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def caption(drawing: Drawing, found: Found, source: Source) -> str:
    if not found:
        return "the suite's datasets; red: within this distance of the goal the sparse reward is above 0"
    seeds = sorted({seed for runs in found.values() for seed in runs})
    counts = numbers(len(runs) for runs in found.values())
    marks = dict.fromkeys(panel.marks for panel in drawing.panels if panel.marks)
    runs = f"{source.budget} budget, offline context, seeds {', '.join(map(str, seeds))}, {counts} runs of a method"
    return "; ".join([runs, *marks])


def seeds_by_step(runs: Mapping[int, RunRecord], value: Callable[[Mapping], float]) -> tuple[list[int], np.ndarray]:
    """Updates (points,), and at each the value of every run (seeds, points); of a diverged one its last goes on."""
    curves = [run.result["curve"] for run in runs.values() if run.result["curve"]]
    longest = max(curves, key=len)
    values = [[value(point) for point in curve] for curve in curves]
    return [point["step"] for point in longest], np.array([v + v[-1:] * (len(longest) - len(v)) for v in values])


def draw_line(axes: Axes, side: Side, steps: Sequence[int], values: np.ndarray) -> None:
    look: Style = LOOKS[side.algo]
    style = {"color": look.colour, "linestyle": look.line, "marker": look.marker, "markersize": 4, "markevery": 0.2}
    if side.changes == VALUE_PENALTY:
        style |= {"linestyle": (0, (1, 1)), "markerfacecolor": "none"}
    estimates = [mean_interval(column) for column in values.T]
    axes.plot(steps, [estimate.value for estimate in estimates], **style, linewidth=1.4, label=str(side))
    if len(values) > 1:
        low, high = np.transpose([(estimate.low, estimate.high) for estimate in estimates])
        axes.fill_between(steps, low, high, color=look.colour, alpha=0.15, linewidth=0)


def t_sne(codes: np.ndarray) -> np.ndarray:
    """(n, latent) -> (n, 2)."""
    from sklearn.manifold import TSNE

    exact = TSNE(perplexity=min(30, (len(codes) - 1) / 3), init="pca", method="exact", random_state=0)
    return exact.fit_transform(codes)  # unlike the approximation, the same every time
