"""Point robots: a point on the plane that moves by at most 0.1 per axis and step (FOCAL, Appendix D.2).

Half-circle tasks hide the goal, wind tasks hide a constant drift. Every episode starts at the origin.
Differences from the authors' program, and why, are in docs/environments.md.
"""

from collections.abc import Callable, Sequence

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from omrlbench.envs.registry import MetaEnvSpec, get_meta_env, member_tasks, reset_mask, task_option

MAX_STEP = 0.1  # displacement per axis of a unit action
GOAL_RADIUS = 0.2  # the sparse reward is zero outside this distance
WIND_GOAL = (1.0, 0.0)

OBSERVATION_SPACE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTION_SPACE = spaces.Box(-1.0, 1.0, (2,), np.float32)


def goals_and_winds(spec: MetaEnvSpec, task_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Goal and drift per step of each task, both float64 of shape (len(task_ids), 2)."""
    parameters = spec.tasks.parameters[spec.check_task_ids(task_ids)]
    if spec.task_set == "wind":
        return np.broadcast_to(WIND_GOAL, parameters.shape), parameters
    return parameters, np.zeros_like(parameters)


def move(position: np.ndarray, action: np.ndarray, wind: np.ndarray) -> np.ndarray:
    """The next position; all shapes (..., 2) and equal. Actions are clipped to [-1, 1]."""
    action = np.asarray(action, np.float64)
    if action.shape != position.shape:
        raise ValueError(f"the action has shape {action.shape}, expected {position.shape}")
    return position + MAX_STEP * np.clip(action, -1.0, 1.0) + wind


def rewards_at(position: np.ndarray, goal: np.ndarray) -> dict[str, np.ndarray]:
    """Both rewards of arriving at `position`: `dense` -d, and `sparse` 1 - d in the goal radius, else 0."""
    distance = np.linalg.norm(position - goal, axis=-1)
    return {"dense": -distance, "sparse": np.where(distance <= GOAL_RADIUS, 1.0 - distance, 0.0)}


def oracle_policy(spec: MetaEnvSpec, task_ids: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
    """Greedy controller that knows goal and wind: per axis, the largest step that does not pass the goal.

    It is optimal for both rewards. Reachable positions at time t form a box, the greedy position is the box's
    nearest point to the goal (the wind is weaker than the robot, so a goal once reached is held), and neither
    reward ever rises with distance.
    """
    goal, wind = goals_and_winds(spec, task_ids)
    return lambda observation: np.clip((goal - observation - wind) / MAX_STEP, -1.0, 1.0)


class PointRobotVectorEnv(VectorEnv):
    """One point robot per entry of `task_ids`, stepped together. Equal to a `SyncVectorEnv` of the single environments.

    A member whose episode has ended waits for `reset(options={"reset_mask": mask})`; with `autoreset` the next `step`
    starts it anew. `reset(options={"task_id": k})` switches all to task k, or each to its own where k is a sequence of
    `num_envs` tasks.
    """

    def __init__(self, spec: MetaEnvSpec, task_ids: Sequence[int], autoreset: bool = False):
        self.meta_env, self.autoreset = spec, autoreset
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP if autoreset else AutoresetMode.DISABLED}
        self.num_envs = len(task_ids)
        self._set_tasks(task_ids)
        self.single_observation_space = OBSERVATION_SPACE
        self.single_action_space = ACTION_SPACE
        self.observation_space = batch_space(OBSERVATION_SPACE, self.num_envs)
        self.action_space = batch_space(ACTION_SPACE, self.num_envs)
        self.position: np.ndarray | None = None

    def _set_tasks(self, task_ids: int | Sequence[int]) -> None:
        self.goal, self.wind = goals_and_winds(self.meta_env, member_tasks(task_ids, self.num_envs))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed if np.ndim(seed) == 0 else None)  # every start is the origin
        task_ids, mask = task_option(options), reset_mask(options, self.num_envs)
        if task_ids is not None:
            self._set_tasks(task_ids)
        if self.position is None:  # nobody has started yet, so all do
            self.position, self.elapsed = np.zeros((self.num_envs, 2)), np.zeros(self.num_envs, int)
        self.position[mask], self.elapsed[mask] = 0.0, 0
        return self.position.astype(np.float32), {}

    def step(self, actions):
        if self.position is None:
            raise ResetNeeded("call reset before the first step")
        running = self.elapsed < self.meta_env.horizon
        moved = move(self.position, actions, self.wind)
        if self.autoreset:
            self.position[~running], self.elapsed[~running] = 0.0, 0
        self.position[running] = moved[running]
        self.elapsed += running
        arrived = rewards_at(self.position, self.goal)
        rewards = {kind: np.where(running, value, 0.0) for kind, value in arrived.items()}
        infos = {f"{kind}_reward": value for kind, value in rewards.items()}
        infos |= {f"_{key}": running.copy() for key in infos}
        never, truncated = np.zeros(self.num_envs, bool), self.elapsed == self.meta_env.horizon
        return self.position.astype(np.float32), rewards[self.meta_env.reward].copy(), never, truncated, infos


class PointRobotEnv(gymnasium.Env):
    """The single environment of one task. `reset(options={"task_id": k})` switches the task.

    Observation: position (2,), float32, in units of the half circle's radius. Action: (2,) in [-1, 1].
    `info` holds `dense_reward` and `sparse_reward` whichever of them is the environment's own.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = OBSERVATION_SPACE
    action_space = ACTION_SPACE

    def __init__(self, meta_env: str, task_id: int = 0, render_mode: str | None = None):
        self.meta_env = get_meta_env(meta_env)
        self.render_mode = render_mode
        self._set_task(task_id)

    def _set_task(self, task_id: int) -> None:
        goals, winds = goals_and_winds(self.meta_env, [task_id])
        self.task_id = int(task_id)
        self.goal, self.wind = goals[0], winds[0]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        task_id = task_option(options)
        if task_id is not None:
            self._set_task(task_id)
        self.position = np.zeros(2)
        self.path = [self.position]
        return self.position.astype(np.float32), {}

    def step(self, action):
        self.position = move(self.position, action, self.wind)
        self.path.append(self.position)
        rewards = {kind: float(value) for kind, value in rewards_at(self.position, self.goal).items()}
        info = {f"{kind}_reward": value for kind, value in rewards.items()}
        return self.position.astype(np.float32), rewards[self.meta_env.reward], False, False, info

    def render(self) -> np.ndarray:
        """Picture of the episode so far, uint8 of shape (400, 400, 3); see `draw_episode`."""
        half_circle = self.meta_env.task_set == "half_circle"
        return draw_episode(np.stack(self.path), self.goal, self.wind, half_circle)


def draw_episode(path: np.ndarray, goal: np.ndarray, wind: np.ndarray, half_circle: bool) -> np.ndarray:
    """RGB picture, uint8 of shape (400, 400, 3), of the square from -2.1 to 2.1 on both axes.

    It shows the path (n, 2) with a ring at its start and a disc at the robot, the goal and its radius, the
    half circle on request, and in the upper left corner an arrow of ten times the wind. The square holds all
    that a robot without wind reaches in 20 steps; a robot outside is shown at the edge.
    """
    from PIL import Image, ImageDraw

    size, smoothing, span = 400, 3, 2.1
    scale = size * smoothing / (2 * span)
    robot, target, grey = (34, 94, 168), (197, 27, 138), (150, 150, 150)
    image = Image.new("RGB", (size * smoothing, size * smoothing), "white")
    draw = ImageDraw.Draw(image)

    def pixels(points):
        return [tuple(xy) for xy in (np.atleast_2d(points) * (1, -1) + span) * scale]

    def disc(centre, radius, **style):
        centre = np.asarray(centre)
        draw.ellipse(pixels([centre + (-radius, radius), centre + (radius, -radius)]), **style)

    if half_circle:
        draw.arc(pixels([(-1, 1), (1, -1)]), 180, 360, fill=(210, 210, 210), width=smoothing)
    if wind.any():
        tail = np.array([-1.4, 1.4])
        tip, side = tail + 10 * wind, np.array([-wind[1], wind[0]])
        draw.line(pixels([tail, tip]), fill=grey, width=2 * smoothing)
        draw.polygon(pixels([tip + 2 * wind, tip + side, tip - side]), fill=grey)
    disc(goal, GOAL_RADIUS, fill=(253, 224, 240), outline=target, width=smoothing)
    disc(goal, 0.025, fill=target)
    path = np.clip(path, -span + 0.05, span - 0.05)
    draw.line(pixels(path), fill=robot, width=2 * smoothing)
    for point in path:
        disc(point, 0.02, fill=robot)
    disc(path[0], 0.05, outline=grey, width=2 * smoothing)
    disc(path[-1], 0.05, fill=robot)
    return np.asarray(image.reduce(smoothing))
