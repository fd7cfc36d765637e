"""Walkers whose masses, inertias, dampings and frictions are hidden (Walker-2D-Params; FOCAL, Appendix D.2).

MuJoCo's planar walker at 0.016 s per step; the episode ends when it falls. A task is 65 multipliers of the model's
values. Those of the original's MuJoCo 1.31 are restored first. Differences from the authors' program, and why, are in
docs/environments.md.
"""

import copy

import mujoco
import numpy as np

from omrlbench.envs.locomotion import Locomotion

RESET_NOISE = 0.005
CONTROL_COST = 1e-3
SURVIVAL_REWARD = 1.0
TIMESTEP = 0.004  # seconds; gymnasium's model has 0.002
VELOCITY_LIMIT = 10.0  # of the observation
HEALTHY_HEIGHT = (0.8, 2.0)  # metres
HEALTHY_PITCH = (-1.0, 1.0)  # radians
DENSITY = 1000.0  # kg/m^3
SCALED = ("body_mass", "body_inertia", "dof_damping", "geom_friction")  # in the order of a task's parameters


class WalkerParams(Locomotion):
    """A task is the multipliers of every element of the arrays `SCALED`, flattened one after the other (65,)."""

    model_file = "walker2d.xml"
    frame_skip = 4
    observation_size = 17
    velocity_column = 8

    def base_model(self):
        model = super().base_model()
        model.opt.timestep = TIMESTEP
        restore_capsules(model)
        return model

    def task_model(self, parameters):
        """Written into the compiled model in place, deriving nothing from it anew, as MuJoCo 1.31 did."""
        model = copy.copy(self.model)
        first = 0
        for name in SCALED:
            values = getattr(model, name)
            values *= parameters[first : first + values.size].reshape(values.shape)
            first += values.size
        return model

    def start(self, random):
        qpos = self.model.qpos0 + random.uniform(-RESET_NOISE, RESET_NOISE, self.model.nq)
        return qpos, random.uniform(-RESET_NOISE, RESET_NOISE, self.model.nv)

    def observe(self, qpos, qvel):
        """Positions without the forward one (8) and velocities (9), clipped."""
        return np.concatenate([qpos[:, 1:], np.clip(qvel, -VELOCITY_LIMIT, VELOCITY_LIMIT)], 1)

    def reward(self, parameters, velocity, action):
        return velocity + SURVIVAL_REWARD - CONTROL_COST * np.square(action).sum(1)

    def terminated(self, qpos, qvel):
        return ~(_within(qpos[:, 1], HEALTHY_HEIGHT) & _within(qpos[:, 2], HEALTHY_PITCH))


def _within(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return (values > bounds[0]) & (values < bounds[1])


def restore_capsules(model: mujoco.MjModel) -> None:
    """Give each body the mass and inertia that MuJoCo 1.31 gave its capsule: a cylinder of length 2 h + r.

    The capsule has radius r and a cylindrical part of length 2 h. Since MuJoCo 2.2 both are exact.
    """
    for geom in range(model.ngeom):
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE:
            radius, half, _ = model.geom_size[geom]
            length = 2 * half + radius
            mass = DENSITY * np.pi * radius**2 * length
            across = mass * (3 * radius**2 + length**2) / 12
            body = model.geom_bodyid[geom]
            model.body_mass[body] = mass
            model.body_inertia[body] = (across, across, mass * radius**2 / 2)
