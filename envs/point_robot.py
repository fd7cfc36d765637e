"""Point robots: a point on the plane that moves by at most 0.1 per axis and step (FOCAL, Appendix D.2).

Half-circle tasks hide the goal, wind tasks hide a constant drift. The agent starts at the origin in every episode.
Differences from the authors' program, and why, are in docs/environments.md.
"""

from collections.abc import Sequence

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from omrlbench.envs.registry import META_ENVS, MetaEnvSpec

MAX_STEP = 0.1  # displacement per axis of a unit action
GOAL_RADIUS = 0.2  # the sparse reward is zero outside this distance
WIND_GOAL = (1.0, 0.0)

OBSERVATION_SPACE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTION_SPACE = spaces.Box(-1.0, 1.0, (2,), np.float32)


def goals_and_winds(spec: MetaEnvSpec, task_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Goal and drift per step of each task, both float64 of shape (len(task_ids), 2)."""
    parameters = spec.tasks.parameters[np.asarray(task_ids)]
    if spec.task_set == "wind":
        return np.broadcast_to(WIND_GOAL, parameters.shape), parameters
    return parameters, np.zeros_like(parameters)


def move(position: np.ndarray, action: np.ndarray, wind: np.ndarray) -> np.ndarray:
    return position + MAX_STEP * np.clip(action, -1.0, 1.0) + wind


def rewards_at(position: np.ndarray, goal: np.ndarray) -> dict[str, np.ndarray]:
    """Both rewards of arriving at `position`: `dense` -d and `sparse` 1 - d within the goal radius, else 0."""
    distance = np.linalg.norm(position - goal, axis=-1)
    return {"dense": -distance, "sparse": np.where(distance <= GOAL_RADIUS, 1.0 - distance, 0.0)}


def oracle_policy(spec: MetaEnvSpec, task_ids: Sequence[int]):
    """Greedy controller that knows goal and wind: per axis, the largest step that does not pass the goal.

    It is optimal for both rewards. Reachable positions at time t form a box, the greedy position is the box's
    nearest point to the goal (the wind is weaker than the robot, so a goal once reached is held), and both rewards
    fall with distance.
    """
    goal, wind = goals_and_winds(spec, task_ids)
    return lambda observation: np.clip((goal - observation - wind) / MAX_STEP, -1.0, 1.0)


class PointRobotVectorEnv(VectorEnv):
    """One point robot per entry of `task_ids`, stepped together; autoreset on the step after the time limit."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, spec: MetaEnvSpec, task_ids: Sequence[int]):
        self.num_envs = len(task_ids)
        self.single_observation_space = OBSERVATION_SPACE
        self.single_action_space = ACTION_SPACE
        self.observation_space = batch_space(OBSERVATION_SPACE, self.num_envs)
        self.action_space = batch_space(ACTION_SPACE, self.num_envs)
        self.own_reward, self.horizon = spec.reward, spec.horizon
        self.goal, self.wind = goals_and_winds(spec, task_ids)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.position = np.zeros((self.num_envs, 2))
        self.elapsed = 0
        return self.position.astype(np.float32), {}

    def step(self, actions):
        if self.elapsed == self.horizon:
            observations, infos = self.reset()
            return observations, np.zeros(self.num_envs), self._never(), self._never(), infos
        self.position = move(self.position, np.asarray(actions, np.float64), self.wind)
        self.elapsed += 1
        rewards = rewards_at(self.position, self.goal)
        infos = {f"{kind}_reward": value for kind, value in rewards.items()}
        infos |= {f"_{key}": np.ones(self.num_envs, bool) for key in infos}
        truncated = np.full(self.num_envs, self.elapsed == self.horizon)
        return self.position.astype(np.float32), rewards[self.own_reward], self._never(), truncated, infos

    def _never(self) -> np.ndarray:
        return np.zeros(self.num_envs, bool)


class PointRobotEnv(gymnasium.Env):
    """The single environment of one task. `reset(options={"task_id": k})` switches the task.

    Observation: position (2,), float32, in units of the half circle's radius. Action: (2,) in [-1, 1].
    `info` holds `dense_reward` and `sparse_reward` whichever of them is the environment's own.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = OBSERVATION_SPACE
    action_space = ACTION_SPACE

    def __init__(self, meta_env: str, task_id: int = 0, render_mode: str | None = None):
        self.meta_env = META_ENVS[meta_env]
        self.render_mode = render_mode
        self._set_task(task_id)

    def _set_task(self, task_id: int) -> None:
        if not 0 <= task_id < len(self.meta_env.tasks):
            raise ValueError(
                f"task_id {task_id} is out of range: {self.meta_env.name} has tasks 0 to {len(self.meta_env.tasks) - 1}"
            )
        self.task_id = int(task_id)
        goals, winds = goals_and_winds(self.meta_env, [self.task_id])
        self.goal, self.wind = goals[0], winds[0]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if options and "task_id" in options:
            self._set_task(options["task_id"])
        self.position = np.zeros(2)
        self.path = [self.position]
        return self.position.astype(np.float32), {}

    def step(self, action):
        self.position = move(self.position, np.asarray(action, np.float64), self.wind)
        self.path.append(self.position)
        rewards = {kind: float(value) for kind, value in rewards_at(self.position, self.goal).items()}
        info = {f"{kind}_reward": value for kind, value in rewards.items()}
        return self.position.astype(np.float32), rewards[self.meta_env.reward], False, False, info

    def render(self) -> np.ndarray:
        """RGB image (400, 400, 3) of the path so far, the goal and the radius of the sparse reward."""
        from PIL import Image, ImageDraw

        size, span = 400, 1.5  # pixels; half the side of the shown square
        image = Image.new("RGB", (size, size), "white")
        draw = ImageDraw.Draw(image)

        def pixels(point):
            x, y = np.asarray(point, float)
            return (x + span) * size / (2 * span), (span - y) * size / (2 * span)

        def disc(point, radius, **style):
            x, y = pixels(point)
            r = radius * size / (2 * span)
            draw.ellipse((x - r, y - r, x + r, y + r), **style)

        draw.arc((*pixels((-1, 1)), *pixels((1, -1))), 180, 360, fill="lightgray")
        disc(self.goal, GOAL_RADIUS, fill=(253, 224, 221), outline=(197, 27, 138))
        disc(self.goal, 0.02, fill=(197, 27, 138))
        if len(self.path) > 1:
            draw.line([pixels(point) for point in self.path], fill=(34, 94, 168), width=2)
        disc(self.position, 0.03, fill=(34, 94, 168))
        return np.asarray(image)
