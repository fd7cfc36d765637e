"""What the MuJoCo meta-environments share: a family's rules, and the single environment of one task.

The state of a member is its positions and velocities and nothing else: the solver starts every step cold, so equal
states and actions give equal next states, whoever steps them (see `batched.py`).
"""

import copy
import os
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
from gymnasium.error import DependencyNotInstalled, ResetNeeded

from omrlbench.envs.registry import MetaEnvSpec, get_meta_env, task_option

TORSO = 1  # the body's number
RESET_NOISE = 0.1  # of positions, uniform, and of velocities, normal
GL_ERRORS = (AttributeError, ImportError, RuntimeError, mujoco.FatalError)  # of a missing library or display
MODELS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


class Locomotion:
    """The rules of one family: its model, observation, reward, termination and start.

    All methods take arrays with one row per member: positions `qpos` (n, nq), velocities `qvel` (n, nv), actions
    (n, nu) within [-1, 1], task parameters (n, n_parameters), all float64.
    """

    model_file: ClassVar[str]  # of gymnasium
    frame_skip: ClassVar[int]  # simulator steps per environment step
    observation_size: ClassVar[int]
    velocity_column: ClassVar[int]  # of the observation: the torso's forward velocity in m/s
    tracking_distance: ClassVar[float] = 4.0  # of the camera, in metres

    def __init__(self) -> None:
        self.model = self.base_model()

    def base_model(self) -> mujoco.MjModel:
        """The model before any task's parameters."""
        return mujoco.MjModel.from_xml_path(str(MODELS / self.model_file))

    def task_model(self, parameters: np.ndarray) -> mujoco.MjModel:
        """The model of the task with `parameters` (n_parameters,), shared by all where tasks differ in reward."""
        return self.model

    @cached_property
    def dt(self) -> float:
        """Seconds per environment step."""
        return self.model.opt.timestep * self.frame_skip

    @cached_property
    def observation_space(self) -> spaces.Box:
        return spaces.Box(-np.inf, np.inf, (self.observation_size,), np.float32)

    @cached_property
    def action_space(self) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (self.model.nu,), np.float32)

    def start(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Positions (nq,) and velocities (nv,) that one episode starts from: noise around rest."""
        qpos = self.model.qpos0 + random.uniform(-RESET_NOISE, RESET_NOISE, self.model.nq)
        return qpos, RESET_NOISE * random.standard_normal(self.model.nv)

    def observe(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Observations (n, observation_size)."""
        raise NotImplementedError

    def reward(self, parameters: np.ndarray, velocity: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Rewards (n,) of a step with mean forward velocity `velocity` (n,) in m/s."""
        raise NotImplementedError

    def terminated(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Which members have fallen, bool (n,)."""
        return np.zeros(len(qpos), bool)

    def outcome(
        self, parameters: np.ndarray, before: np.ndarray, qpos: np.ndarray, qvel: np.ndarray, action: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Observations, rewards, terminations and forward velocities of a step from positions `before`."""
        velocity = (qpos[:, 0] - before[:, 0]) / self.dt
        reward = self.reward(parameters, velocity, action)
        return self.observe(qpos, qvel).astype(np.float32), reward, self.terminated(qpos, qvel), velocity


def clipped(actions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`actions` as float64 within [-1, 1]. Raises ValueError if they do not have `shape`."""
    actions = np.asarray(actions, np.float64)
    if actions.shape != shape:
        raise ValueError(f"the action has shape {actions.shape}, expected {shape}")
    return np.clip(actions, -1.0, 1.0)


class LocomotionEnv(gymnasium.Env):
    """The single environment of one task. `reset(options={"task_id": k})` switches the task.

    Observations are float32, actions within [-1, 1]. `info` holds `dense_reward`, which is the environment's own, and
    `x_velocity` in m/s.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, meta_env: str, task_id: int = 0, render_mode: str | None = None):
        self.meta_env = get_meta_env(meta_env)
        self.family = self.meta_env.family()
        self.metadata = self.metadata | {"render_fps": round(1 / self.family.dt)}
        self.observation_space, self.action_space = self.family.observation_space, self.family.action_space
        self.render_mode = render_mode
        self.renderer: MujocoRenderer | None = None
        self.scenery: mujoco.MjModel | None = None  # what it draws
        self.data: mujoco.MjData | None = None
        self._set_task(task_id)

    def _set_task(self, task_id: int) -> None:
        self.parameters = task_parameters(self.meta_env, [task_id])
        self.task_id = int(task_id)
        self.model = self.family.task_model(self.parameters[0])
        self.close()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        task_id = task_option(options)
        if task_id is not None:
            self._set_task(task_id)
        if self.data is None:
            self.data = mujoco.MjData(self.model)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:], self.data.qvel[:] = self.family.start(self.np_random)
        return self.family.observe(self.data.qpos[None], self.data.qvel[None])[0].astype(np.float32), {}

    def step(self, action):
        if self.data is None:
            raise ResetNeeded("call reset before the first step")
        action = clipped(action, self.action_space.shape)
        before = self.data.qpos.copy()
        self.data.ctrl[:] = action
        self.data.qacc_warmstart[:] = 0.0
        mujoco.mj_step(self.model, self.data, self.family.frame_skip)
        state = before, self.data.qpos, self.data.qvel, action
        values = self.family.outcome(self.parameters, *(value[None] for value in state))
        observation, reward, terminated, velocity = (value[0] for value in values)
        info = {"dense_reward": float(reward), "x_velocity": float(velocity)}
        return observation, float(reward), bool(terminated), False, info

    def render(self) -> np.ndarray:
        """Picture of the present state from a camera that follows the torso, uint8 of shape (480, 480, 3).

        Raises DependencyNotInstalled, one line, where OpenGL does not work.
        """
        if self.renderer is None:
            without_display = sys.platform == "linux" and "DISPLAY" not in os.environ
            if without_display:
                os.environ.setdefault("MUJOCO_GL", "egl")
            self.scenery = with_endless_floor(self.model)
            camera = {"distance": self.family.tracking_distance, "elevation": -15.0, "azimuth": 90.0}
            self.renderer = MujocoRenderer(self.scenery, self.data, camera, 480, 480)
        mujoco.mj_forward(self.scenery, self.data)
        place = np.array([*self.data.xpos[TORSO, :2], self.scenery.body_pos[TORSO, 2]])
        self.renderer.default_cam_config["lookat"] = place
        try:
            if self.renderer.viewer is not None:
                self.renderer.viewer.cam.lookat[:] = place
                self.renderer.viewer.make_context_current()  # another environment may have drawn meanwhile
            return self.renderer.render("rgb_array")
        except GL_ERRORS as error:
            platform = os.environ.get("MUJOCO_GL", "the default")
            raise DependencyNotInstalled(
                f"no picture: OpenGL does not work (MUJOCO_GL is {platform}); on Debian without a display install "
                f"libegl1 and set MUJOCO_GL=egl, or install libosmesa6 and set MUJOCO_GL=osmesa"
            ) from error

    def close(self) -> None:
        """Free the renderer and forget the state."""
        if self.renderer is not None:
            self.renderer.close()
        self.renderer = self.data = None


def with_endless_floor(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy of `model` for pictures: fast robots leave its floor of 80 m, and its light stays where they began.

    Mirror images and shadows are left out: where a processor draws, they take more time than all else.
    """
    model = copy.copy(model)
    floors = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    materials = model.geom_matid[floors]
    model.mat_texrepeat[materials] /= model.geom_size[floors, :2]  # per 2 m where the floor has no end
    model.mat_reflectance[materials] = 0.0
    model.geom_size[floors, :2] = 0.0
    model.light_mode[:] = mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM
    model.light_castshadow[:] = False
    return model


def task_parameters(spec: MetaEnvSpec, task_ids: Sequence[int]) -> np.ndarray:
    """The parameters (n, n_parameters) of `task_ids`. Raises ValueError for one that is not a task."""
    return spec.tasks.parameters[spec.check_task_ids(task_ids)]
