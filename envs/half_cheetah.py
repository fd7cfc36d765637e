"""Half-cheetahs: run at a hidden velocity, or in a hidden direction (FOCAL, Appendix D.2).

MuJoCo's half-cheetah at 0.05 s per step. Episodes end at the time limit only. Differences from the authors' program,
and why, are in docs/environments.md.
"""

from xml.etree import ElementTree

import mujoco
import numpy as np

from omrlbench.envs.locomotion import MODELS, Locomotion

CONTROL_COST = 0.05
TORSO_HEIGHT = 0.7  # of the torso's frame above the ground where the root's position is zero


class HalfCheetah(Locomotion):
    model_file = "half_cheetah.xml"
    frame_skip = 5
    observation_size = 20
    velocity_column = 8

    def base_model(self):
        """The total mass is set as the model file asks for by an attribute that MuJoCo deprecates."""
        description = ElementTree.parse(MODELS / self.model_file)
        total_mass = description.find("compiler").attrib.pop("settotalmass")
        model = mujoco.MjModel.from_xml_string(ElementTree.tostring(description.getroot(), encoding="unicode"))
        mujoco.mj_setTotalmass(model, float(total_mass))
        mujoco.mj_setConst(model, mujoco.MjData(model))
        return model

    def observe(self, qpos, qvel):
        """Positions without the forward one (8), velocities (9), and the torso's place (x, 0, z) in metres."""
        torso = np.stack([qpos[:, 0], np.zeros(len(qpos)), qpos[:, 1] + TORSO_HEIGHT], 1)
        return np.concatenate([qpos[:, 1:], qvel, torso], 1)


class HalfCheetahVel(HalfCheetah):
    """The task is the velocity to run at, in m/s."""

    def reward(self, parameters, velocity, action):
        return -np.abs(velocity - parameters[:, 0]) - CONTROL_COST * np.square(action).sum(1)


class HalfCheetahFwdBack(HalfCheetah):
    """The task is the direction to run in: -1 backward, 1 forward."""

    def reward(self, parameters, velocity, action):
        return parameters[:, 0] * velocity - CONTROL_COST * np.square(action).sum(1)
