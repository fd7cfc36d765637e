"""Meta-environments. Importing this package registers the gymnasium ids `omrl/...` and does nothing else."""

import gymnasium

from omrlbench.envs.registry import META_ENVS

for _spec in META_ENVS.values():
    if _spec.gym_id not in gymnasium.registry:
        gymnasium.register(
            _spec.gym_id,
            entry_point=_spec.entry_point,
            kwargs={"meta_env": _spec.name},
            max_episode_steps=_spec.horizon,
        )
