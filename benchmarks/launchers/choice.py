"""The launcher that a person asks for by name, and the options that each understands."""

from typing import Any

from omrlbench.data.identity import datasets_root
from omrlbench.errors import BenchError, unknown
from omrlbench.launchers.worker import Work
from omrlbench.sweep import Launcher

OPTIONS = {"local": (), "ray": ("address", "cpus", "gpus"), "slurm": ("partition", "time", "cpus", "gpus")}


def given_options(name: str, device: str, options: dict[str, Any]) -> dict[str, Any]:
    """Those that are not None. Raises BenchError for a launcher that there is not, or an option that does not fit."""
    if name not in OPTIONS:
        raise unknown("launcher", name, OPTIONS)
    given = {key: value for key, value in options.items() if value is not None}
    for key in given.keys() - OPTIONS[name]:
        fitting = [launcher for launcher, known in OPTIONS.items() if key in known]
        raise BenchError(f"--{key} is for --launcher {' or '.join(fitting)}, not {name}")
    if given.get("gpus") and device == "cpu":
        raise BenchError("--gpus is for --device cuda: on the cpu a cell has no use for one")
    return given


def make_launcher(name: str, work: Work, workers: int | None, device: str, options: dict[str, Any]) -> Launcher:
    """The launcher called `name`. Raises BenchError as `given_options` does, and where it is not installed."""
    given = given_options(name, device, options)
    if name == "local":
        from omrlbench.envs.batched import usable_cores
        from omrlbench.launchers.local import LocalLauncher

        return LocalLauncher(work, workers or usable_cores())
    given = {"cpus": 1, "gpus": int(device == "cuda")} | given
    work = Work(work.results_dir.resolve(), datasets_root(work.data_dir).resolve(), work.argv)
    if name == "ray":
        from omrlbench.launchers.ray import RayLauncher

        return RayLauncher(work, workers=workers, **given)
    from omrlbench.launchers.slurm import SlurmLauncher

    return SlurmLauncher(work, workers=workers, **given)
