"""Meta-environments. Importing this package registers the gymnasium ids `omrl/...` and does nothing else."""

from omrlbench.envs.registry import META_ENVS, register

for _spec in META_ENVS.values():
    register(_spec)
