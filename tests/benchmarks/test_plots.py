"""The pictures show what they are given: values on the axes, labels with split, seed, budget and n."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image

from omrlbench import plots
from omrlbench.data.dataset import MultiTaskDataset
from omrlbench.envs.references import reference_returns
from omrlbench.envs.registry import META_ENVS
from omrlbench.record import RunRecord


@pytest.fixture
def axes():
    return Figure(layout="constrained").subplots()


def texts(axes) -> str:
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    return " | ".join([axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), *legend])


def record(env: str, status: str = "finished") -> RunRecord:
    spec = META_ENVS[env]
    config = {
        "env": env,
        "level": "expert",
        "algo": "focal",
        "budget": "cpu",
        "seed": 3,
        "eval_split": "test",
        "behavior": "per_task",
    }

    curve_split = "validation" if spec.tasks.splits["validation"] else "train"

    def evaluation(step: int, split: str) -> dict:
        ids = spec.tasks.splits[split]
        random = np.random.default_rng(step)
        return {
            "step": step,
            "protocol": "online",
            "split": split,
            "task_ids": list(ids),
            "returns": random.normal(size=(len(ids), 2)).tolist(),
        }

    result = {
        "status": status,
        "message": None,
        "score": 0.5,
        "curve": [evaluation(step, curve_split) for step in (500, 1000, 1500)],
        "evaluations": [evaluation(1500, "test")],
    }
    return RunRecord(config, {}, result, {})


def artefact(env: str) -> dict[str, np.ndarray]:
    spec, random = META_ENVS[env], np.random.default_rng(0)
    tasks, test = np.repeat(np.arange(len(spec.tasks)), 2), np.array(spec.tasks.splits["test"])
    width = spec.make(0).observation_space.shape[0]
    paths = random.normal(0, 0.1, (len(test), spec.horizon + 1, width)).cumsum(1)
    return {
        "embedding_tasks": tasks,
        "embeddings": random.normal(size=(len(tasks), 5)),
        "path_tasks": test,
        "paths": paths,
    }


def test_curve_shows_means_percentiles_and_references(axes):
    references = reference_returns("point_robot", "validation")
    returns = np.array([[-20.0, -18, -16], [-10, -9, -8]])
    plots.plot_curve(axes, np.array([100, 200]), returns, references, "validation")
    mean, expert, random = axes.get_lines()
    np.testing.assert_allclose(mean.get_xydata(), [[100, -18], [200, -9]])
    assert expert.get_ydata()[0] == references.expert and random.get_ydata()[0] == references.random
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(-19.6) and band.max() == pytest.approx(-8.2)
    assert "validation" in texts(axes) and "mean of 3 tasks" in texts(axes)


def test_right_axis_of_the_curve_is_the_score(axes):
    references = reference_returns("point_robot", "validation")
    plots.plot_curve(axes, np.array([1, 2]), np.zeros((2, 3)), references, "validation")
    (score,) = axes.child_axes
    to_score, _ = score._functions
    assert to_score(references.random) == 0 and to_score(references.expert) == 1


def test_principal_axes_are_those_of_the_covariance():
    points = np.random.default_rng(0).normal(size=(200, 4)) * (3, 2, 0.5, 0.1)
    coordinates, fraction = plots.principal_axes(points)
    variances = np.sort(np.linalg.eigvalsh(np.cov(points.T)))[::-1]
    np.testing.assert_allclose(coordinates.var(0, ddof=1), variances[:2])
    np.testing.assert_allclose(fraction, variances[:2] / variances.sum())


@pytest.mark.parametrize("points", [np.ones((5, 3)), np.arange(5.0)[:, None]])
def test_principal_axes_of_points_without_spread_or_second_axis(points):
    coordinates, fraction = plots.principal_axes(points)
    assert coordinates.shape == (5, 2) and np.isfinite(coordinates).all()
    assert fraction.sum() == pytest.approx(min(1.0, np.ptp(points)))


def test_embedding_draws_every_point_once_with_a_marker_per_split(axes):
    spec = META_ENVS["point_robot"]
    given = artefact("point_robot")
    colours = plots.task_colours(spec)
    plots.plot_embedding(axes, given["embeddings"], given["embedding_tasks"], spec.tasks.splits, colours)
    counts = {scatter.get_label(): len(scatter.get_offsets()) for scatter in axes.collections}
    assert counts == {"train tasks": 160, "validation tasks": 20, "test tasks": 40}
    assert "of the variance" in texts(axes) and "2 contexts per task" in texts(axes)


def test_an_embedding_along_one_line_looks_like_one(axes):
    spec = META_ENVS["point_robot"]
    size = axes.get_position().size
    points = np.linspace(0, 1, 110)[:, None] * (1.0, 1e-3)
    plots.plot_embedding(axes, points, np.arange(110), spec.tasks.splits, plots.task_colours(spec))
    axes.apply_aspect()
    np.testing.assert_allclose(axes.get_position().size, size)
    assert np.ptp(axes.get_ylim()) > 0.5


def test_colours_follow_the_goal_angle():
    colours = plots.task_colours(META_ENVS["sparse_point_robot"])
    np.testing.assert_allclose(colours.values[:100], np.linspace(0, 180, 100), atol=1e-9)
    assert tuple(colours([0])[0]) == plots.COLORMAP(0.0) and tuple(colours([99])[0]) == plots.COLORMAP(1.0)


def test_trajectories_draw_each_path_and_the_radius_of_the_sparse_reward(axes):
    paths = np.cumsum(np.full((3, 5, 2), 0.1), 1)
    goals, colours = np.eye(3)[:, :2], np.array([to_rgba(c) for c in "rgb"])
    plots.plot_trajectories(axes, paths, goals, colours, 0.2)
    for line, path in zip(axes.get_lines(), paths, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), path)
    np.testing.assert_array_equal([patch.center for patch in axes.patches], goals)
    assert {patch.radius for patch in axes.patches} == {0.2}
    assert axes.get_aspect() == 1 and "within 0.2 of the goal" in texts(axes)


def test_trajectories_of_a_dense_reward_have_no_radius(axes):
    plots.plot_trajectories(axes, np.zeros((1, 2, 2)), np.zeros((1, 2)), np.zeros((1, 4)), None)
    assert not axes.patches and "within" not in texts(axes)


def test_velocities_end_where_the_episode_does_and_show_what_to_run_at(axes):
    velocities, colours = [np.full(31, 1.0), np.full(21, 2.0)], np.array([to_rgba(c) for c in "rg"])
    plots.plot_velocities(axes, velocities, np.array([1.5, 2.5]), colours, dt=0.1)
    whole, fallen = (line.get_xydata() for line in axes.get_lines()[:2])
    np.testing.assert_allclose(whole[:, 1], 1.0)
    np.testing.assert_allclose(fallen[:, 1], 2.0)
    assert fallen[-1, 0] == pytest.approx(whole[-1, 0] - 1.0)
    assert "m/s" in texts(axes) and "fallen" in texts(axes) and "velocity to run at" in texts(axes)


@pytest.mark.parametrize("env", META_ENVS)
def test_run_figure_is_a_picture_with_three_panels(env, tmp_path):
    plots.run_figure(record(env), artefact(env), tmp_path / "run.png")
    width, height = Image.open(tmp_path / "run.png").size
    assert width > 2.5 * height
    assert [path.name for path in tmp_path.iterdir()] == ["run.png"]


def test_returns_have_a_row_per_level_with_the_shown_one_emphasised(axes):
    returns = {"random": np.zeros(10), "medium": np.arange(12.0), "expert": np.repeat([10.0, 11.0], [1, 3])}
    references = reference_returns("point_robot", "train")
    plots.plot_returns(axes, returns, "expert", references)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(returns)
    rows = [patch.get_data() for patch in axes.patches]
    assert [row.baseline for row in rows] == [0, 1, 2]
    assert [row.values.max() for row in rows] == pytest.approx([row.baseline + plots.ROW_HEIGHT for row in rows])
    assert [patch.get_facecolor() == to_rgba(plots.BLUE) for patch in axes.patches] == [False, False, True]
    means = np.concatenate([scatter.get_offsets() for scatter in axes.collections])
    np.testing.assert_allclose(means, [[0, 0], [5.5, 1], [10.75, 2]])
    expert, random = axes.get_lines()
    assert expert.get_xdata()[0] == references.expert and random.get_xdata()[0] == references.random


def test_states_are_counted_once_each_and_no_goal_is_cut_off(axes):
    points = np.random.default_rng(0).uniform(0, 1, (500, 2))
    visits = plots.plot_states(axes, points, np.array([[3.0, 0.5]]))
    assert visits.get_array().sum() == 500
    assert axes.get_xlim()[1] > 3 and np.ptp(axes.get_ylim()) == pytest.approx(np.ptp(axes.get_xlim()))


@pytest.mark.parametrize("env", ["sparse_point_robot", "point_robot_wind", "cheetah_vel"])
def test_dataset_figure_is_a_picture_with_two_panels(env, tmp_path):
    plots.dataset_figure(dataset(env), {"random": np.zeros(3), "expert": np.ones(3)}, tmp_path / "new" / "data.png")
    width, height = Image.open(tmp_path / "new" / "data.png").size
    assert 1.8 * height < width < 2.2 * height


def dataset(env: str) -> MultiTaskDataset:
    spec = META_ENVS[env]
    observations = torch.rand(60, spec.make(0).observation_space.shape[0])
    observations[:, -1] = 0.5  # no spread
    absent = dict.fromkeys(f.name for f in fields(MultiTaskDataset))
    about = {"spec": spec, "level": "expert", "metadata": {"behavior": "per_task"}}
    return MultiTaskDataset(**absent | about | {"observations": observations})


def test_run_figure_without_artefact_shows_the_curve_alone(tmp_path):
    plots.run_figure(record("point_robot", "diverged"), {}, tmp_path / "run.png")
    width, height = Image.open(tmp_path / "run.png").size
    assert width < 1.1 * height


def test_headline_and_caption_say_what_was_measured():
    finished = record("point_robot")
    assert plots.headline(finished) == "focal on point_robot, expert data: score 0.50 on 20 test tasks"
    assert plots.headline(record("point_robot", "diverged")).endswith("diverged")
    assert all(
        part in plots.caption(finished) for part in ("n = 1", "seed 3", "cpu budget", "online context", "per_task")
    )
    whole = replace(finished, config=finished.config | {"allowance": "dataset"})
    assert "dataset of each task seen" in plots.caption(whole) and "context" not in plots.caption(whole)
