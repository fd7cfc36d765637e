"""Pictures of one run: the return curve, the task embedding, and the paths of point robots. One function per panel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import seaborn as sns
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Circle

from omrlbench.envs.references import References
from omrlbench.envs.registry import MetaEnvSpec

BLUE, ORANGE, GREEN = sns.color_palette("colorblind", 3)
COLORMAP = colormaps["viridis"]
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
    """The goal's angle for goals on the plane, else the first task parameter."""
    names, parameters = spec.tasks.parameter_names, spec.tasks.parameters
    if names == ("goal_x", "goal_y"):
        return TaskColours("angle of the goal (degrees)", np.degrees(np.arctan2(parameters[:, 1], parameters[:, 0])))
    return TaskColours(names[0].replace("_", " "), parameters[:, 0])


def plot_curve(axes: Axes, steps: np.ndarray, returns: np.ndarray, references: References, split: str) -> None:
    """Mean return over tasks at every evaluation, with the spread over tasks; `returns` is (n_evaluations, n_tasks).

    The right axis shows the same as a score: 0 random, 1 expert.
    """
    low, high = np.percentile(returns, (10, 90), axis=1)
    axes.plot(steps, returns.mean(1), color=BLUE, marker="o", markersize=3, label=f"mean of {returns.shape[1]} tasks")
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.25, linewidth=0, label="10th to 90th percentile")
    axes.axhline(references.expert, color=GREEN, linestyle="--", label="expert")
    axes.axhline(references.random, color=ORANGE, linestyle=":", label="random")
    axes.set(xlabel="update", ylabel="return per episode", title=f"Return on the {split} tasks")
    gap = references.expert - references.random
    to_score, to_return = (lambda r: (r - references.random) / gap), (lambda s: s * gap + references.random)
    axes.secondary_yaxis("right", functions=(to_score, to_return)).set_ylabel("score")
    legend_below(axes)


def principal_axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (n, 2) of `points` (n, d) on their first two principal axes, and the fraction of variance of each."""
    centred = points - points.mean(0)
    padded = np.pad(centred, ((0, 0), (0, max(0, 2 - points.shape[1]))))
    left, singular, _ = np.linalg.svd(padded, full_matrices=False)
    variance = singular**2
    return left[:, :2] * singular[:2], variance[:2] / max(variance.sum(), np.finfo(float).tiny)


def plot_embedding(
    axes: Axes, embeddings: np.ndarray, task_ids: np.ndarray, splits: Mapping[str, Sequence[int]], colours: TaskColours
) -> None:
    """The embeddings (n, latent) of the tasks `task_ids` (n,), which may repeat, on their principal axes."""
    points, fraction = principal_axes(embeddings)
    for split, ids in splits.items():
        chosen = np.isin(task_ids, ids)
        train = split == "train"
        style = {"s": 28, "linewidths": 0} if train else {"s": 55, "linewidths": 0.8, "edgecolors": "black"}
        axes.scatter(
            *points[chosen].T, c=colours(task_ids[chosen]), marker=MARKERS[split], label=f"{split} tasks", **style
        )
    axes.set(
        xlabel=f"principal axis 1 ({fraction[0]:.0%} of the variance)",
        ylabel=f"principal axis 2 ({fraction[1]:.0%})",
        title="Embedding of the tasks",
    )
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
        axes.plot(*path.T, color=colour, linewidth=1.3, marker=".", markersize=3)
    axes.scatter(0, 0, marker="P", s=50, color="black", zorder=3, label="start")
    axes.scatter(*goals.T, marker="*", s=110, facecolors="none", edgecolors="black", zorder=3, label="goal")
    if goal_radius is not None:
        axes.scatter([], [], s=150, color="0.85", label=f"reward: within {goal_radius:g} of the goal")
    axes.set(xlabel="x", ylabel="y", title="One episode per test task")
    axes.set_aspect("equal", adjustable="datalim")
    legend_below(axes)


def legend_below(axes: Axes):
    return axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize="small", frameon=False, columnspacing=1.2
    )
