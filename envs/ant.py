"""The ant that runs forward or backward, which it is not told (FOCAL, Appendix D.2).

MuJoCo's ant at 0.05 s per step; the episode ends when the torso is too low or too high. Differences from the authors'
program, and why, are in docs/environments.md.
"""

import numpy as np

from omrlbench.envs.locomotion import Locomotion

CONTROL_COST = 0.5
SURVIVAL_REWARD = 1.0
HEALTHY_HEIGHT = (0.2, 1.0)  # metres


class AntFwdBack(Locomotion):
    """The task is the direction to run in: 1 along x, -1 against it."""

    model_file = "ant.xml"
    frame_skip = 5
    observation_size = 27
    velocity_column = 13

    def observe(self, qpos, qvel):
        """Positions without the place on the ground (13) and velocities (14)."""
        return np.concatenate([qpos[:, 2:], qvel], 1)

    def reward(self, parameters, velocity, action):
        return parameters[:, 0] * velocity - CONTROL_COST * np.square(action).sum(1) + SURVIVAL_REWARD

    def terminated(self, qpos, qvel):
        low, high = HEALTHY_HEIGHT
        return ~((qpos[:, 2] >= low) & (qpos[:, 2] <= high))
