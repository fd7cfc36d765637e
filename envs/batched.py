"""MuJoCo members of different tasks stepped together, each in its own model, by a pool of threads."""

import os
from collections.abc import Sequence

import mujoco
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from mujoco.rollout import Rollout

from omrlbench.envs.locomotion import clipped, task_parameters
from omrlbench.envs.registry import MetaEnvSpec, member_tasks, reset_mask, task_option

# Members are handed to the threads in chunks. Handing over takes time, and so does waiting for the last large one.
CHUNKS_PER_THREAD = 4  # at least, where there are enough members
LARGEST_CHUNK = 8


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class BatchedEnv(VectorEnv):
    """One member per entry of `task_ids`. Equal to a `SyncVectorEnv` of the single environments with the same seeds.

    A member whose episode has ended is not stepped: without autoreset it keeps its last observation, earns 0 and
    reports its end again, until `reset(options={"reset_mask": mask})` starts it anew; with `autoreset` the next `step`
    does that by itself. `reset(options={"task_id": k})` switches all members to task k, or each to its own where
    k is a sequence of `num_envs` tasks. Results do not depend on `threads`, by default one per core.
    """

    def __init__(self, spec: MetaEnvSpec, task_ids: Sequence[int], autoreset: bool = False, threads: int | None = None):
        self.meta_env, self.family = spec, spec.family()
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP if autoreset else AutoresetMode.DISABLED}
        self.num_envs, self.autoreset = len(task_ids), autoreset
        self.single_observation_space, self.single_action_space = (
            self.family.observation_space,
            self.family.action_space,
        )
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.threads = threads or usable_cores()
        self.pool = Rollout(nthread=self.threads if self.threads > 1 else 0)  # 0: no hand-over to a thread
        self._set_tasks(task_ids)
        self.scratch = [mujoco.MjData(self.models[0]) for _ in range(self.threads)]
        self.generators: list[np.random.Generator] | None = None

    def _set_tasks(self, task_ids: int | Sequence[int]) -> None:
        task_ids = member_tasks(task_ids, self.num_envs)
        self.parameters = task_parameters(self.meta_env, task_ids)
        distinct, position = np.unique(task_ids, return_inverse=True)
        models = [self.family.task_model(row) for row in self.meta_env.tasks.parameters[distinct]]
        self.models = np.array([models[k] for k in position], object)

    def reset(self, *, seed: int | Sequence[int] | None = None, options=None):
        """Start the members of `options["reset_mask"]`, by default all, and return all observations.

        Member k starts from `seed` + k, or from seed k of a sequence; without a seed it goes on in its own stream.
        """
        task_ids, mask = task_option(options), reset_mask(options, self.num_envs)
        if task_ids is not None:
            self._set_tasks(task_ids)
        if self.generators is None:  # nobody has started yet, so all do
            mask = np.ones(self.num_envs, bool)
            self._clear(seed)
        elif seed is not None:
            self._seed(seed, mask)
        self._start(mask)
        return self._observations.copy(), {}

    def _clear(self, seed) -> None:
        model = self.models[0]
        self.state = np.zeros((self.num_envs, 1 + model.nq + model.nv))  # time, positions, velocities
        self._observations = np.zeros(self.observation_space.shape, np.float32)
        self._terminated, self._truncated = np.zeros((2, self.num_envs), bool)
        self.elapsed = np.zeros(self.num_envs, int)
        self.generators = [None] * self.num_envs
        self._seed(seed, np.ones(self.num_envs, bool))

    def _seed(self, seed, mask: np.ndarray) -> None:
        seeds = [None if seed is None else seed + k for k in range(self.num_envs)] if np.ndim(seed) == 0 else seed
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed is one number or {self.num_envs} numbers, got {len(seeds)}")
        for k in np.flatnonzero(mask):
            self.generators[k], _ = seeding.np_random(None if seeds[k] is None else int(seeds[k]))

    def _start(self, mask: np.ndarray) -> None:
        members = np.flatnonzero(mask)
        for k in members:
            self.state[k] = np.concatenate([[0.0], *self.family.start(self.generators[k])])
        self._observations[members] = self.family.observe(*self._split(self.state[members]))
        self._terminated[members] = self._truncated[members] = False
        self.elapsed[members] = 0

    def _split(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (n, nq) and velocities (n, nv) in `states` (n, 1 + nq + nv)."""
        nq = self.models[0].nq
        return states[:, 1 : 1 + nq], states[:, 1 + nq :]

    def step(self, actions):
        if self.generators is None:
            raise ResetNeeded("call reset before the first step")
        actions = clipped(actions, self.action_space.shape)
        ended = self._terminated | self._truncated
        rewards, velocities = np.zeros((2, self.num_envs))
        if self.autoreset and ended.any():
            self._start(ended)
        if not ended.all():
            members = np.flatnonzero(~ended) if ended.any() else slice(None)  # a slice copies nothing
            before, actions = self.state[members], actions[members]
            after = self._simulate(self.models[members].tolist(), before, actions)
            values = self.family.outcome(self.parameters[members], self._split(before)[0], *self._split(after), actions)
            self.state[members] = after
            self._observations[members], rewards[members], self._terminated[members], velocities[members] = values
            self.elapsed[members] += 1
            self._truncated[members] = self.elapsed[members] == self.meta_env.horizon
        infos = {"dense_reward": rewards.copy(), "x_velocity": velocities}
        infos |= {f"_{key}": ~ended for key in infos}
        return self._observations.copy(), rewards, self._terminated.copy(), self._truncated.copy(), infos

    def _simulate(self, models: list[mujoco.MjModel], states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The states (n, 1 + nq + nv) one environment step after `states`."""
        members, steps = len(models), self.family.frame_skip
        after = np.empty((members, steps, states.shape[1]))
        self.pool.rollout(
            models,
            self.scratch,
            states,
            actions[:, None].repeat(steps, 1),
            nstep=steps,
            state=after,
            chunk_size=min(LARGEST_CHUNK, -(-members // (CHUNKS_PER_THREAD * self.threads))),
            skip_checks=True,  # the shapes are right, and checking them costs as much as stepping several members
        )
        return after[:, -1]

    def close_extras(self, **kwargs) -> None:
        self.pool.close()
