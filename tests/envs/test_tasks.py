import json

import numpy as np
import pytest

from omrlbench.envs.registry import META_ENVS, get_meta_env
from omrlbench.envs.tasks import DRAWS, SPLITS, load_task_set


@pytest.mark.parametrize("name", DRAWS)
def test_frozen_file_equals_a_fresh_draw(name):
    frozen, drawn = (json.loads(tasks.to_json()) for tasks in (load_task_set(name), DRAWS[name]()))
    np.testing.assert_allclose(frozen.pop("parameters"), drawn.pop("parameters"), rtol=0, atol=1e-14)
    assert frozen == drawn


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("half_circle", (80, 10, 20)),
        ("wind", (40, 10, 10)),
        ("velocities", (80, 10, 20)),
        ("walker_multipliers", (40, 10, 10)),
    ],
)
def test_splits_are_disjoint_and_cover_all_tasks(name, sizes):
    tasks = load_task_set(name)
    assert tuple(len(tasks.splits[split]) for split in SPLITS) == sizes
    assert sorted(sum(tasks.splits.values(), ())) == list(range(len(tasks)))


def test_half_circle_goals():
    goals = load_task_set("half_circle").parameters
    np.testing.assert_allclose(np.linalg.norm(goals, axis=1), 1.0, atol=1e-14)
    angles = np.arctan2(goals[:, 1], goals[:, 0])
    np.testing.assert_allclose(np.diff(angles[:100]), 0.031733, atol=5e-7)
    assert angles[0] == 0.0 and angles[99] == np.pi
    assert ((angles[100:] > 0.0) & (angles[100:] < np.pi)).all()


def test_winds_are_those_of_the_authors_seed():
    winds = load_task_set("wind").parameters
    first_five = [
        (-0.023798, 0.033597),
        (-0.034132, 0.011024),
        (-0.022187, 0.006452),
        (-0.004068, 0.049739),
        (-0.0179, -0.024528),
    ]
    np.testing.assert_allclose(winds[:5], first_five, atol=5e-7)
    np.testing.assert_allclose(winds[49], (0.047287, -0.03746), atol=5e-7)
    assert (np.abs(winds) <= 0.05).all()


def test_velocities_are_those_of_the_authors_seed():
    tasks = load_task_set("velocities")
    velocities = tasks.parameters[:, 0]
    test = [2.1718, 2.3791, 1.0546, 2.7290, 2.1387, 2.6917, 1.2606, 1.4025, 2.7118, 1.9006]
    test += [1.5985, 0.7125, 2.8395, 1.6783, 2.2721, 0.7084, 1.2893, 1.1823, 1.5321, 0.3762]
    np.testing.assert_allclose(velocities[:5], [0.786074, 0.476052, 0.834380, 1.377951, 0.963002], atol=5e-7)
    assert tasks.splits["test"] == tuple(range(80, 100))
    np.testing.assert_allclose(velocities[80:100], test, atol=5e-5)
    assert velocities[:80].mean() == pytest.approx(1.4728, abs=5e-5)


@pytest.mark.parametrize("name", ["directions_back_forward", "directions_forward_back"])
def test_directions_train_and_test_on_the_same_two_tasks(name):
    tasks = load_task_set(name)
    assert tasks.splits == {"train": (0, 1), "validation": (), "test": (0, 1)}
    assert sorted(tasks.parameters[:, 0]) == [-1.0, 1.0]


def test_walkers_multipliers_are_within_the_originals_ranges():
    tasks = load_task_set("walker_multipliers")
    assert tasks.parameters.shape == (60, 65) and len(set(tasks.parameter_names)) == 65
    damping = np.array([name.startswith("dof_damping") for name in tasks.parameter_names])
    assert damping.sum() == 9
    for columns, base in ((damping, 1.3), (~damping, 1.5)):
        exponents = np.log(tasks.parameters[:, columns]) / np.log(base)
        assert np.abs(exponents).max() <= 3 and np.abs(exponents.mean()) < 0.2 and exponents.std() > 1.6


def test_parameters_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        load_task_set("wind").parameters[0] = 0.0


@pytest.mark.parametrize("bad", [[110], [-1], [0, 1.0], [True], ["0"], [None], [[0]], [], 0])
def test_task_ids_are_checked(bad):
    with pytest.raises(ValueError, match="^task ids of point_robot are integers from 0 to 109, got [^\n]*$"):
        META_ENVS["point_robot"].check_task_ids(bad)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean point_robot_wind?"):
        get_meta_env("point_robot_winds")
