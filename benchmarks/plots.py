"""Pictures of one run: return curve, task embedding, paths of point robots or speeds of others. One function each.

And of one dataset: the returns of its episodes and the states that they visit.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np
import seaborn as sns
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Circle

from omrlbench.config import allowance_of
from omrlbench.data.dataset import MultiTaskDataset
from omrlbench.envs.point_robot import GOAL_RADIUS, goals_and_winds
from omrlbench.envs.references import References, reference_returns
from omrlbench.envs.registry import MetaEnvSpec, get_meta_env
from omrlbench.record import RunRecord, write_atomic

BLUE, ORANGE, GREEN = sns.color_palette("colorblind", 3)
GREY = "0.75"
COLORMAP = colormaps["viridis"]
SMOOTHING = 10  # steps
PARAMETERS_SHOWN = 3  # of a task, at most, in words
RETURN_BINS = 60
ROW_HEIGHT = 0.85  # of a histogram, where rows are 1 apart
CELLS = 60  # along each side of the visited part of a plane
STATES = 200_000  # that a picture counts at most
NO_GOALS = np.empty((0, 2))
MARKERS = {"train": "o", "validation": "s", "test": "^"}


@dataclass(frozen=True)
class TaskColours:
    """One number per task that is shown as colour, the same in all panels."""

    label: str
    values: np.ndarray  # (n_tasks,)

    @property
    def norm(self) -> Normalize:
        return Normalize(self.values.min(), self.values.max())

    def __call__(self, task_ids: Sequence[int]) -> np.ndarray:
        """RGBA colours (n, 4) of `task_ids` (n,)."""
        return COLORMAP(self.norm(self.values[list(task_ids)]))


def task_colours(spec: MetaEnvSpec) -> TaskColours:
    """The goal's angle for goals on the plane, the torso's mass of walkers, else the first task parameter."""
    names, parameters = spec.tasks.parameter_names, spec.tasks.parameters
    if names == ("goal_x", "goal_y"):
        angles = np.degrees(np.arctan2(parameters[:, 1], parameters[:, 0]))
        return TaskColours("angle of the goal (degrees)", angles)
    if "body_mass[1]" in names:
        return TaskColours("mass of the torso (multiple of the model's)", parameters[:, names.index("body_mass[1]")])
    unit = " (m/s)" if names == ("velocity",) else ""
    return TaskColours(names[0].replace("_", " ") + unit, parameters[:, 0])


def run_figure(record: RunRecord, artefact: Mapping[str, np.ndarray], path: Path) -> None:
    """Write the picture of a run that has a curve as PNG; `artefact` holds the arrays kept beside the record."""
    spec = get_meta_env(record.config["env"])
    colours = task_colours(spec)
    panels = [lambda axes: _curve(axes, record, spec)]
    if "embeddings" in artefact:
        embedded = artefact["embeddings"], artefact["embedding_tasks"]
        panels.append(lambda axes: plot_embedding(axes, *embedded, spec.tasks.splits, colours))
    if "paths" in artefact and (spec.locomotion or spec.plane):
        draw_paths = _velocities if spec.locomotion else _trajectories
        panels.append(lambda axes: draw_paths(axes, record, artefact, spec, colours))
    figure = Figure(figsize=(5.3 * len(panels), 5.4), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, axes in zip(panels, all_axes, strict=True):
        panel(axes)
    if len(panels) > 1:
        figure.colorbar(ScalarMappable(colours.norm, COLORMAP), ax=all_axes[1:], label=colours.label)
    figure.suptitle(headline(record))
    figure.supxlabel(fill(caption(record), 70 * len(panels)), fontsize="small", color="0.3")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, dpi=120)
    write_atomic(path, content.getvalue())


def headline(record: RunRecord) -> str:
    config, result = record.config, record.result
    run = f"{config['algo']} on {config['env']}, {config['level']} data"
    if record.status != "finished":
        return f"{run}: {record.status}"
    n_tasks = len(result["evaluations"][-1]["task_ids"])
    return f"{run}: score {result['score']:z.2f} on {n_tasks} {config['eval_split']} tasks"


def caption(record: RunRecord) -> str:
    config = record.config
    context = f"{record.protocol} context, " if record.protocol else ""
    seen = "dataset of each task seen, " if allowance_of(config) == "dataset" else context
    return (
        f"one run (n = 1), seed {config['seed']}, {config['budget']} budget, {seen}"
        f"{config['behavior']} behaviour policies; score: mean of the last evaluations"
    )


def _curve(axes: Axes, record: RunRecord, spec: MetaEnvSpec) -> None:
    curve = record.result["curve"]
    steps = np.array([point["step"] for point in curve])
    returns = np.array([point["returns"] for point in curve]).mean(-1)
    split = curve[0]["split"]
    plot_curve(axes, steps, returns, reference_returns(spec.name, split), split)


def _trajectories(
    axes: Axes, record: RunRecord, artefact: Mapping[str, np.ndarray], spec: MetaEnvSpec, colours: TaskColours
) -> None:
    tasks = artefact["path_tasks"]
    goals, _ = goals_and_winds(spec, tasks)
    radius = GOAL_RADIUS if spec.reward == "sparse" else None
    plot_trajectories(axes, artefact["paths"], goals, colours(tasks), radius)
    axes.set_title(f"One episode in each {record.config['eval_split']} task")


def _velocities(
    axes: Axes, record: RunRecord, artefact: Mapping[str, np.ndarray], spec: MetaEnvSpec, colours: TaskColours
) -> None:
    tasks = artefact["path_tasks"]
    family = spec.family()
    targets = spec.tasks.parameters[tasks, 0] if spec.tasks.parameter_names == ("velocity",) else None
    velocities = [_until_end(path)[:, family.velocity_column] for path in artefact["paths"]]
    plot_velocities(axes, velocities, targets, colours(tasks), family.dt)
    axes.set_title(f"One episode in each {record.config['eval_split']} task")


def _until_end(path: np.ndarray) -> np.ndarray:
    """`path` (n, observation_dim) without the repetitions of the last observation."""
    moving = np.flatnonzero((path[1:] != path[:-1]).any(1))
    return path[: moving[-1] + 2] if moving.size else path[:1]


def plot_curve(axes: Axes, steps: np.ndarray, returns: np.ndarray, references: References, split: str) -> None:
    """Mean return over tasks at every evaluation and the spread over tasks; `returns` is (evaluations, tasks).

    The right axis shows the same as a score: 0 random, 1 expert.
    """
    low, high = np.percentile(returns, (10, 90), axis=1)
    mean_label = f"mean of {returns.shape[1]} tasks"
    axes.plot(steps, returns.mean(1), color=BLUE, marker="o", markersize=3, label=mean_label)
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.25, linewidth=0, label="10th to 90th percentile")
    axes.axhline(references.expert, color=GREEN, linestyle="--", label="expert")
    axes.axhline(references.random, color=ORANGE, linestyle=":", label="random")
    axes.set(xlabel="update", ylabel="return per episode", title=f"Return on the {split} tasks")
    gap = references.expert - references.random
    to_score, to_return = (lambda r: (r - references.random) / gap), (lambda s: s * gap + references.random)
    axes.secondary_yaxis("right", functions=(to_score, to_return)).set_ylabel("score")
    legend_below(axes)


def principal_axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (n, 2) of `points` (n, d) on their first two principal axes, and each one's part of the variance."""
    centred = points - points.mean(0)
    padded = np.pad(centred, ((0, 0), (0, max(0, 2 - points.shape[1]))))
    left, singular, _ = np.linalg.svd(padded, full_matrices=False)
    variance = singular**2
    return left[:, :2] * singular[:2], variance[:2] / max(variance.sum(), np.finfo(float).tiny)


def plot_embedding(
    axes: Axes,
    embeddings: np.ndarray,
    task_ids: np.ndarray,
    splits: Mapping[str, Sequence[int]],
    colours: TaskColours,
) -> None:
    """The embeddings (n, latent) of the tasks `task_ids` (n,), which may repeat, on their principal axes."""
    points, fraction = principal_axes(embeddings)
    for split, ids in splits.items():
        chosen = np.isin(task_ids, ids)
        if not chosen.any():
            continue
        train = split == "train"
        style = {"s": 10, "linewidths": 0} if train else {"s": 24, "linewidths": 0.5, "edgecolors": "black"}
        style |= {"marker": MARKERS[split], "label": f"{split} tasks"}
        axes.scatter(*points[chosen].T, c=colours(task_ids[chosen]), **style)
    axes.set(
        xlabel=f"principal axis 1 ({fraction[0]:.0%} of the variance)",
        ylabel=f"principal axis 2 ({fraction[1]:.0%})",
        title=f"Embedding, {len(task_ids) // len(np.unique(task_ids))} contexts per task",
    )
    axes.set_aspect("equal", adjustable="datalim")  # an axis without variance shall not look like one with
    for handle in legend_below(axes).legend_handles:
        handle.set_facecolor("0.6")


def plot_trajectories(
    axes: Axes, paths: np.ndarray, goals: np.ndarray, colours: np.ndarray, goal_radius: float | None
) -> None:
    """One path per task on the plane: `paths` (n, steps + 1, 2), `goals` (n, 2), `colours` (n, 4).

    `goal_radius` is where the sparse reward ends, None for a dense reward.
    """
    for path, goal, colour in zip(paths, goals, colours, strict=True):
        if goal_radius is not None:
            axes.add_patch(Circle(goal, goal_radius, facecolor=colour, edgecolor="none", alpha=0.15))
        axes.plot(path[:, 0], path[:, 1], color=colour, linewidth=1.3, marker=".", markersize=3)
    axes.scatter(0, 0, marker="P", s=50, color="black", zorder=3, label="start")
    axes.scatter(*goals.T, marker="*", s=110, facecolors="none", edgecolors="black", zorder=3, label="goal")
    if goal_radius is not None:
        axes.scatter([], [], s=150, color="0.85", label=f"reward: within {goal_radius:g} of the goal")
    axes.set(xlabel="x", ylabel="y", title="One episode in each task")
    axes.set_aspect("equal", adjustable="datalim")
    axes.locator_params(nbins=5)
    legend_below(axes)


def plot_velocities(
    axes: Axes, velocities: Sequence[np.ndarray], targets: np.ndarray | None, colours: np.ndarray, dt: float
) -> None:
    """Forward velocity over time, one line per task: `velocities` (steps + 1,) each, in m/s, `colours` (n, 4).

    Lines are running means of `SMOOTHING` steps; a cross marks an episode that ended early. `targets` (n,) are the
    velocities to run at, where the task is one.
    """
    longest = max(map(len, velocities))
    for velocity, colour in zip(velocities, colours, strict=True):
        window = min(SMOOTHING, len(velocity))
        smooth = np.convolve(velocity, np.full(window, 1 / window), "valid")
        times = dt * (np.arange(len(smooth)) + (window - 1) / 2)
        axes.plot(times, smooth, color=colour, linewidth=1.2)
        if len(velocity) < longest:
            axes.scatter(times[-1], smooth[-1], marker="x", s=25, color=[colour])
    if targets is not None:
        ends = np.full(len(targets), dt * longest)
        axes.scatter(ends, targets, marker="<", s=30, c=colours, edgecolors="black", linewidths=0.5, clip_on=False)
        axes.scatter([], [], marker="<", s=30, color="0.6", label="velocity to run at")
    axes.plot([], [], color="0.4", label=f"forward velocity, mean of {SMOOTHING} steps")
    if any(len(velocity) < longest for velocity in velocities):
        axes.scatter([], [], marker="x", s=25, color="0.4", label="fallen")
    axes.set(xlabel="time (s)", ylabel="forward velocity (m/s)", title="One episode in each task")
    legend_below(axes)


def dataset_figure(dataset: MultiTaskDataset, returns: Mapping[str, np.ndarray], path: Path) -> None:
    """Write the picture of `dataset` as PNG; `returns` (episodes,) of its level and others to compare."""
    spec = dataset.spec
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_returns(left, returns, dataset.level, reference_returns(spec.name, "train"))
    left.set_xlabel(f"return per episode ({spec.reward} reward)")
    draw_states = _positions if spec.plane else _principal_states
    every = -(-len(dataset) // STATES)
    visits = draw_states(right, spec, dataset.observations[::every].numpy())
    figure.colorbar(visits, ax=right, label="visits" if every == 1 else f"visits, one in {every} states counted")
    right.set_title(f"States in all {len(spec.tasks)} tasks, {dataset.level} data")
    figure.suptitle(f"{spec.name}, {dataset.level} data: {len(dataset):,} transitions")
    about = (
        f"{len(returns[dataset.level]):,} episodes of at most {spec.horizon} steps, "
        f"{dataset.metadata['behavior']} behaviour policies; expert and random: the references of the training tasks"
    )
    figure.supxlabel(fill(about, 140), fontsize="small", color="0.3")
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(figure, path)


def plot_returns(axes: Axes, returns: Mapping[str, np.ndarray], shown: str, references: References) -> None:
    """How the returns (episodes,) of each level are distributed, the level `shown` emphasised.

    Every level has a row of its own, a histogram scaled to its peak.
    """
    edges = np.histogram_bin_edges(np.concatenate(list(returns.values())), RETURN_BINS)
    for row, (level, values) in enumerate(returns.items()):
        counts, _ = np.histogram(values, edges)
        colour = BLUE if level == shown else GREY
        axes.stairs(row + ROW_HEIGHT * counts / counts.max(), edges, baseline=row, fill=True, color=colour)
        axes.scatter(values.mean(), row, marker="^", s=40, color="black", zorder=3, label="mean" if row == 0 else None)
    axes.axvline(references.expert, color=GREEN, linestyle="--", label="expert")
    axes.axvline(references.random, color=ORANGE, linestyle=":", label="random")
    axes.set_yticks(range(len(returns)), returns)
    axes.set_ylim(-0.2, len(returns))
    axes.set(xlabel="return per episode", title="Returns, each level scaled to its peak")
    legend_below(axes)


def _positions(axes: Axes, spec: MetaEnvSpec, observations: np.ndarray) -> QuadMesh:
    goals, _ = goals_and_winds(spec, range(len(spec.tasks)))
    visits = plot_states(axes, observations, np.unique(goals, axis=0))
    axes.set(xlabel="x", ylabel="y")
    legend_below(axes)
    return visits


def _principal_states(axes: Axes, spec: MetaEnvSpec, observations: np.ndarray) -> QuadMesh:
    spread = observations.std(0)
    points, fraction = principal_axes(observations / np.where(spread > 0, spread, 1))
    visits = plot_states(axes, points)
    axes.set_xlabel(f"principal axis 1 of the scaled observations ({fraction[0]:.0%} of the variance)")
    axes.set_ylabel(f"principal axis 2 ({fraction[1]:.0%})")
    return visits


def plot_states(axes: Axes, points: np.ndarray, goals: np.ndarray = NO_GOALS) -> QuadMesh:
    """How often `points` (n, 2) lie in each cell of the plane, as colours on a logarithmic scale; `goals` (k, 2)."""
    shown = np.concatenate([points, goals])
    low, high = shown.min(0), shown.max(0)
    centre, half = (low + high) / 2, 0.52 * max(high - low) or 1.0
    square = np.stack([centre - half, centre + half], 1)
    *_, visits = axes.hist2d(*points.T, CELLS, range=square, cmin=1, norm=LogNorm(), cmap=COLORMAP)
    axes.scatter(*goals.T, marker="*", s=30, color="white", edgecolors="black", linewidths=0.5, label="goal")
    axes.set_aspect("equal")
    axes.locator_params(nbins=5)
    return visits


def legend_below(axes: Axes) -> Legend:
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": 2}
    return axes.legend(**place, fontsize="small", frameon=False, markerscale=1.3)
