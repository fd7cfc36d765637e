"""How fast the MuJoCo worlds are simulated, beside gymnasium and EnvPool: `python -m omrlbench.perf.simulation`.

docs/performance.md says what is compared.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any

import click
import gymnasium
import mujoco
import numpy as np
import torch

from omrlbench.algorithms.brac import LatentPolicy
from omrlbench.algorithms.focal import FocalConfig
from omrlbench.algorithms.networks import mlp
from omrlbench.envs.registry import MetaEnvSpec, get_meta_env
from omrlbench.evaluation import roll_out
from omrlbench.perf.turns import Contender, conditions, table, take_turns

WORLDS = {"cheetah_vel": "HalfCheetah", "ant_fwd_back": "Ant"}  # meta-environment -> gymnasium's environment


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True, help="How often everything takes its turn.")
@click.option("--members", default=64, show_default=True, help="Robots that are stepped together.")
@click.option("--threads", default=2, show_default=True, help="Threads that step them.")
@click.option("--processes", default=16, show_default=True, help="Environments, and processes, of async gymnasium.")
@click.option("--steps", default=100, show_default=True, help="Steps of all members in one turn.")
@click.option("--tasks", default=20, show_default=True, help="Test tasks to evaluate in.")
@click.option("--episodes", default=3, show_default=True, help="Episodes in each of them.")
def main(rounds: int, members: int, threads: int, processes: int, steps: int, tasks: int, episodes: int) -> None:
    torch.set_num_threads(1)  # as in runs
    print(conditions(["python", "mujoco", "gymnasium", "torch"]))
    for meta_env, name in WORLDS.items():
        with stepping(get_meta_env(meta_env), name, members, threads, processes, steps) as contenders:
            print(f"\n{table(f'random actions: {meta_env}', contenders, take_turns(contenders, rounds))}")
    spec = get_meta_env("cheetah_vel")
    contenders = evaluating(spec, spec.tasks.splits["test"][:tasks], episodes)
    rates = take_turns(contenders, (rounds + 1) // 2)  # these turns are long
    print(f"\n{table(f'evaluation: {spec.name}', contenders, rates)}")


@contextmanager
def stepping(
    spec: MetaEnvSpec, name: str, members: int, threads: int, processes: int, steps: int
) -> Iterator[list[Contender]]:
    """Contenders that step `spec` and the environments of others called `name` by random actions.

    Async gymnasium comes into being first, since it forks, which is unsafe where threads run.
    """
    with ExitStack() as stack:
        others = gymnasium_async(f"{name}-v5", processes, spec.horizon)
        stack.callback(others.close)
        tasks = np.resize(spec.tasks.splits["test"], members)
        ours = spec.make_vector(tasks, threads=threads, autoreset=True)
        stack.callback(ours.close)
        ours.reset(seed=0)
        sizes = f"{members} members, {threads} threads"
        contenders = [
            Contender(f"OMRL-Bench: {sizes}", random_steps(ours, members, steps)),
            Contender(f"gymnasium: {name}-v5, {processes} processes", random_steps(others, processes, steps), 4.0),
        ]
        pool = envpool(f"{name}-v4", members, threads, spec.horizon)
        if pool is not None:
            stack.callback(pool.close)
            title = f"EnvPool {version('envpool')}: {name}-v4, {sizes}"
            contenders.append(Contender(title, random_steps(pool, members, steps), 1.0))
        yield contenders


def gymnasium_async(name: str, processes: int, horizon: int) -> gymnasium.vector.VectorEnv:
    """Gymnasium's own, reset, in as many processes as environments."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)  # each process would warn that the model's file is outdated
    try:
        envs = gymnasium.make_vec(name, processes, vectorization_mode="async", max_episode_steps=horizon)
    finally:
        mujoco.set_mju_user_warning(before)
    envs.reset(seed=0)
    return envs


def envpool(name: str, members: int, threads: int, horizon: int) -> Any:
    """EnvPool's, reset; None, and a word why, where it cannot be had."""
    try:
        import envpool
    except Exception as error:  # it may be missing, or unable to work with what else is installed
        print(f"\nEnvPool is left out: {error}")
        return None
    sizes = {"num_envs": members, "num_threads": threads, "max_episode_steps": horizon}
    envs = envpool.make(name, env_type="gymnasium", seed=0, **sizes)
    envs.reset()
    return envs


def random_steps(envs: Any, members: int, steps: int) -> Callable[[], int]:
    """Takes `steps` steps of uniformly random actions, drawn beforehand, and goes on from there when called again."""
    space = envs.action_space  # of all members, or of one where it is EnvPool's
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, members, space.shape[-1])).astype(space.dtype)

    def run() -> int:
        for action in actions:
            envs.step(action)
        return steps * members

    return run


def evaluating(spec: MetaEnvSpec, tasks: Sequence[int], episodes: int) -> list[Contender]:
    """Contenders that evaluate one policy of FOCAL's size, with random weights, in the same episodes."""
    members = np.repeat(tasks, episodes)
    actor, z = focal_actor(spec, len(members))

    def counted(evaluate: Callable[..., np.ndarray]) -> Callable[[], int]:
        return lambda: len(evaluate(spec, members, actor, z)) * spec.horizon

    sizes = f"{len(tasks)} tasks x {episodes} episodes"
    return [
        Contender(f"OMRL-Bench: {sizes} at once", counted(evaluate_at_once)),
        Contender(f"one environment: {sizes} in turn", counted(evaluate_in_turn), 10.0),
    ]


def focal_actor(spec: MetaEnvSpec, members: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """An untrained actor and an embedding for every member (members, latent_dim)."""
    config, env = FocalConfig(), spec.make(0)
    (observation_dim,), (action_dim,) = env.observation_space.shape, env.action_space.shape
    with torch.random.fork_rng():
        torch.manual_seed(0)
        actor = mlp(observation_dim + config.latent_dim, (config.width,) * 3, 2 * action_dim)
        return actor, torch.randn(members, config.latent_dim).tanh()


def evaluate_at_once(spec: MetaEnvSpec, tasks: np.ndarray, actor: torch.nn.Module, z: torch.Tensor) -> np.ndarray:
    """Returns of one episode per entry of `tasks`, as `evaluation.evaluate` rolls out; member k starts from seed k."""
    envs = spec.make_vector(tasks)
    returns = roll_out(envs, LatentPolicy(actor, z), range(len(tasks)), torch.device("cpu")).returns
    envs.close()
    return returns


def evaluate_in_turn(spec: MetaEnvSpec, tasks: np.ndarray, actor: torch.nn.Module, z: torch.Tensor) -> np.ndarray:
    """The same, one episode after the other."""
    returns = np.zeros(len(tasks))
    for k, task in enumerate(tasks):
        env, policy, ended = spec.make(int(task)), LatentPolicy(actor, z[k : k + 1]), False
        observation, _ = env.reset(seed=k)
        while not ended:
            action = policy.act(torch.as_tensor(observation)[None])[0].numpy()
            observation, reward, terminated, truncated, _ = env.step(action)
            returns[k] += reward
            ended = terminated or truncated
        env.close()
    return returns


if __name__ == "__main__":
    main()
