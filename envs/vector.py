"""A vector environment for meta-environments that have none of their own, and one that keeps rewards to itself."""

from collections.abc import Sequence

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from omrlbench.envs.registry import MetaEnvSpec, member_tasks, reset_mask, task_option


class InTurn(VectorEnv):
    """One single environment per entry of `task_ids`; what a member does depends on its task and seed alone.

    A member whose episode has ended is not stepped: it keeps its last observation, earns 0 and reports its end again,
    until `reset(options={"reset_mask": mask})` starts it anew.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}

    def __init__(self, spec: MetaEnvSpec, task_ids: Sequence[int]):
        self.meta_env, self.num_envs = spec, len(task_ids)
        self.members = [spec.make(int(task)) for task in spec.check_task_ids(task_ids)]
        self.single_observation_space = self.members[0].observation_space
        self.single_action_space = self.members[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._observations = np.zeros(self.observation_space.shape, self.observation_space.dtype)
        self._terminated, self._truncated = np.zeros((2, self.num_envs), bool)

    def reset(self, *, seed: int | Sequence[int] | None = None, options=None):
        """Start the members of `options["reset_mask"]`, by default all; member k from `seed` + k or from seed k."""
        tasks, mask = task_option(options), reset_mask(options, self.num_envs)
        tasks = None if tasks is None else member_tasks(tasks, self.num_envs)
        seeds = [None if seed is None else seed + k for k in range(self.num_envs)] if np.ndim(seed) == 0 else list(seed)
        for k in np.flatnonzero(mask):
            own = None if tasks is None else {"task_id": int(tasks[k])}
            self._observations[k], _ = self.members[k].reset(
                seed=None if seeds[k] is None else int(seeds[k]), options=own
            )
        self._terminated[mask] = self._truncated[mask] = False
        return self._observations.copy(), {}

    def step(self, actions):
        running = ~(self._terminated | self._truncated)
        rewards = np.zeros(self.num_envs)
        infos = {f"{kind}_reward": np.zeros(self.num_envs) for kind in self.meta_env.rewards}
        for k in np.flatnonzero(running):
            self._observations[k], rewards[k], self._terminated[k], self._truncated[k], info = self.members[k].step(
                actions[k]
            )
            for name, values in infos.items():
                values[k] = info[name]
        infos |= {f"_{name}": running for name in list(infos)}
        return self._observations.copy(), rewards, self._terminated.copy(), self._truncated.copy(), infos

    def close_extras(self, **kwargs) -> None:
        for member in self.members:
            member.close()


class RewardFree(VectorWrapper):
    """`env` with every reward NaN, of all kinds; nothing else of what it tells depends on rewards."""

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self.meta_env = env.meta_env

    def step(self, actions):
        observations, _, terminated, truncated, _ = self.env.step(actions)
        unknown = np.full(self.num_envs, np.nan)
        infos = {f"{kind}_reward": unknown for kind in self.meta_env.rewards}
        return observations, unknown, terminated, truncated, infos
