"""The rules of the MuJoCo families, against values worked out by hand and the facts of the originals."""

import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled

from omrlbench.envs.locomotion import MODELS
from omrlbench.envs.registry import get_meta_env
from omrlbench.envs.walker import SCALED

VELOCITY, DIRECTION, ANT, WALKER = (
    get_meta_env(name).family() for name in ("cheetah_vel", "cheetah_fwd_back", "ant_fwd_back", "walker_params")
)


def after_forward(family, qpos, qvel):
    data = mujoco.MjData(family.model)
    data.qpos[:], data.qvel[:] = qpos, qvel
    mujoco.mj_forward(family.model, data)
    return data


@pytest.mark.parametrize("family, dt, size", [(VELOCITY, 0.05, 20), (ANT, 0.05, 27), (WALKER, 0.016, 17)])
def test_time_step_observation_and_action_spaces(family, dt, size):
    assert family.dt == pytest.approx(dt)
    assert family.observation_space.shape == (size,)
    assert family.action_space.low.min() == -1 and family.action_space.high.max() == 1


def test_rewards_by_hand():
    action = np.full((1, 6), 0.5)  # squares add up to 1.5
    assert VELOCITY.reward(np.array([[2.0]]), np.array([1.5]), action) == pytest.approx(-0.5 - 0.05 * 1.5)
    assert DIRECTION.reward(np.array([[-1.0]]), np.array([1.5]), action) == pytest.approx(-1.5 - 0.05 * 1.5)
    assert WALKER.reward(np.ones((1, 65)), np.array([1.5]), action) == pytest.approx(1.5 + 1 - 1e-3 * 1.5)
    action = np.full((1, 8), 0.5)  # 2
    assert ANT.reward(np.array([[-1.0]]), np.array([1.5]), action) == pytest.approx(-1.5 - 0.5 * 2 + 1)


def test_velocity_is_the_way_over_the_whole_step():
    qpos, qvel = np.zeros((1, 9)), np.zeros((1, 9))
    after = qpos.copy()
    after[0, 0] = 0.1
    _, reward, _, velocity = VELOCITY.outcome(np.array([[3.0]]), qpos, after, qvel, np.zeros((1, 6)))
    assert velocity == pytest.approx(2.0) and reward == pytest.approx(-1.0)


def test_cheetah_observes_the_place_of_its_torso():
    random = np.random.default_rng(0)
    qpos, qvel = random.normal(size=9), random.normal(size=9)
    observation = VELOCITY.observe(qpos[None], qvel[None])[0]
    torso = after_forward(VELOCITY, qpos, qvel).body("torso").xpos
    np.testing.assert_allclose(observation, np.concatenate([qpos[1:], qvel, torso]), atol=1e-12)
    assert observation[VELOCITY.velocity_column] == qvel[0]


def test_the_cheetahs_model_is_that_of_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs there that the file's way to set the mass is deprecated
    loaded = mujoco.MjModel.from_xml_path(str(MODELS / "half_cheetah.xml"))
    for name in ("body_mass", "body_inertia", "dof_invweight0", "body_invweight0"):
        np.testing.assert_array_equal(getattr(VELOCITY.model, name), getattr(loaded, name))


def test_ant_and_walker_observe_everything_but_the_way():
    qpos, qvel = np.arange(15.0), np.arange(14.0)
    np.testing.assert_array_equal(ANT.observe(qpos[None], qvel[None])[0], [*range(2, 15), *range(14)])
    assert ANT.observe(qpos[None], 5 + qvel[None])[0, ANT.velocity_column] == 5
    qpos, qvel = np.arange(9.0), 4 * np.arange(-4.0, 5)
    expected = [*range(1, 9), -10, -10, -8, -4, 0, 4, 8, 10, 10]
    np.testing.assert_array_equal(WALKER.observe(qpos[None], qvel[None])[0], expected)


@pytest.mark.parametrize("height, fallen", [(0.19, True), (0.2, False), (1.0, False), (1.01, True), (np.nan, True)])
def test_the_ant_ends_outside_its_heights(height, fallen):
    qpos = np.zeros((1, 15))
    qpos[0, 2] = height
    assert ANT.terminated(qpos, np.zeros((1, 14)))[0] == fallen


@pytest.mark.parametrize(
    "height, pitch, fallen",
    [(0.8, 0, True), (0.81, 0, False), (1.99, 0, False), (2.0, 0, True), (1.2, 1.0, True), (1.2, -0.99, False)],
)
def test_the_walker_ends_at_its_bounds(height, pitch, fallen):
    qpos = np.zeros((1, 9))
    qpos[0, 1:3] = height, pitch
    assert WALKER.terminated(qpos, np.zeros((1, 9)))[0] == fallen


def test_starts_are_within_the_noise_of_the_originals():
    random = np.random.default_rng(0)
    for family, bound in ((VELOCITY, 0.1), (ANT, 0.1), (WALKER, 0.005)):
        starts = np.array([family.start(random)[0] for _ in range(500)]) - family.model.qpos0
        assert 0.99 * bound < np.abs(starts).max() <= bound
    velocities = np.array([WALKER.start(random)[1] for _ in range(500)])
    assert 0.00495 < np.abs(velocities).max() <= 0.005
    assert np.array([ANT.start(random)[1] for _ in range(500)]).std() == pytest.approx(0.1, rel=0.05)


def test_the_walker_has_the_masses_and_inertias_of_mujoco_1_31():
    model = WALKER.model
    masses = {"torso": 3.534292, "thigh": 3.926991, "leg": 2.714336, "foot": 2.940531, "foot_left": 2.940531}
    across = {"torso": 0.061850, "thigh": 0.084267, "leg": 0.067044, "foot": 0.019211, "foot_left": 0.019211}
    along = {"torso": 0.004418, "thigh": 0.004909, "leg": 0.002171, "foot": 0.005293, "foot_left": 0.005293}
    for body, mass in masses.items():
        inertia = (across[body], across[body], along[body])
        assert model.body(body).mass[0] == pytest.approx(mass, abs=1e-6)
        np.testing.assert_allclose(model.body(body).inertia, inertia, atol=1e-6)
    np.testing.assert_allclose(model.geom_friction[:, 0], [0.7, *[0.9] * 6, 1.9])


def test_a_walkers_multipliers_are_written_in_place_and_nothing_is_derived_from_them():
    base = {name: getattr(WALKER.model, name).copy() for name in SCALED}
    parameters = np.random.default_rng(0).uniform(0.5, 2.0, 65)
    model = WALKER.task_model(parameters)
    scaled = np.concatenate([getattr(model, name).ravel() for name in SCALED])
    np.testing.assert_array_equal(scaled, parameters * np.concatenate([base[name].ravel() for name in SCALED]))
    for name in SCALED:
        np.testing.assert_array_equal(getattr(WALKER.model, name), base[name])
    for name in ("body_invweight0", "dof_invweight0", "body_subtreemass"):
        np.testing.assert_array_equal(getattr(model, name), getattr(WALKER.model, name))


def final_positions(parameters):
    model = WALKER.task_model(parameters)
    data, random = mujoco.MjData(model), np.random.default_rng(0)
    for _ in range(50):
        data.ctrl[:] = random.uniform(-1, 1, 6)
        mujoco.mj_step(model, data, WALKER.frame_skip)
    return data.qpos.copy()


def test_28_of_65_multipliers_have_an_effect():
    plain = final_positions(np.ones(65))
    doubled = [np.where(np.arange(65) == k, 2.0, 1.0) for k in range(65)]
    effective = {k for k in range(65) if not np.array_equal(final_positions(doubled[k]), plain)}
    mass, inertia, damping, friction = range(8), range(8, 32), range(32, 41), range(41, 65)
    always = {*mass[1:], *inertia[4::3], *damping[3:]}
    assert always <= effective <= always | {*friction[::3]}  # which parts touch the floor varies


def test_a_picture_follows_the_robot_without_a_display():
    env = get_meta_env("cheetah_vel").make(0, render_mode="rgb_array")
    env.reset(seed=0)
    try:
        before = env.render()
    except DependencyNotInstalled as error:
        pytest.skip(f"no OpenGL here: {error}")
    for _ in range(30):
        env.step(env.action_space.sample())
    after = env.render()
    assert before.shape == (480, 480, 3) and before.dtype == np.uint8
    assert before.std() > 10 and (before != after).mean() > 0.01
    env.close()


@pytest.mark.parametrize("name", ["cheetah_fwd_back", "ant_fwd_back", "walker_params"])
def test_robot_and_floor_stay_in_the_picture_however_far_it_runs(name):
    env = get_meta_env(name).make(0, render_mode="rgb_array").unwrapped
    env.reset(seed=0)
    try:
        env.render()
    except DependencyNotInstalled as error:
        pytest.skip(f"no OpenGL here: {error}")
    near = env.render().astype(int)
    tiles = 45
    env.data.qpos[0] += tiles * 80 / 60  # the floor's pattern repeats 60 times on 80 m
    far = env.render().astype(int)
    assert env.data.xpos[1, 0] > 59 and (np.abs(near - far).max(-1) > 40).mean() < 0.02
    env.close()


def test_two_robots_are_drawn_in_turns():
    spec = get_meta_env("cheetah_fwd_back")
    envs = [spec.make(task, render_mode="rgb_array") for task in (0, 1)]
    for env in envs:
        env.reset(seed=0)
    try:
        at_rest = [env.render().astype(int) for env in envs]
    except DependencyNotInstalled as error:
        pytest.skip(f"no OpenGL here: {error}")
    for _ in range(30):
        envs[0].step(np.ones(6))
    moved, waited = (env.render().astype(int) for env in envs)
    assert (np.abs(moved - at_rest[0]) > 40).mean() > 0.02
    assert (np.abs(waited - at_rest[1]) > 40).mean() < 0.001
    for env in envs:
        env.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a picture needs no display")
def test_without_opengl_one_line_says_what_to_install():
    program = """
from omrlbench.envs.registry import get_meta_env
env = get_meta_env("walker_params").make(0, render_mode="rgb_array")
env.reset(seed=0)
env.render()
"""
    surroundings = {key: value for key, value in os.environ.items() if key != "DISPLAY"} | {"MUJOCO_GL": "glfw"}
    done = subprocess.run([sys.executable, "-c", program], env=surroundings, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "DependencyNotInstalled: no picture: OpenGL does not work (MUJOCO_GL is glfw)" in last and "libegl1" in last
