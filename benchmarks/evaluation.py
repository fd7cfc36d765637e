"""The only evaluation: adapt to each task, roll out, keep every episode's return. See docs/protocols.md."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from omrlbench.algorithms.algorithm import Algorithm, Context, Policy
from omrlbench.data.behavior import standardised_parameters
from omrlbench.data.dataset import MultiTaskDataset
from omrlbench.envs.references import normalized_score
from omrlbench.errors import Diverged

PROTOCOL_REVISION = 1  # bumped by whoever changes results


class Stream(IntEnum):
    """The independent random streams of a run."""

    LEARNER = 0
    BATCHES = 1
    EVALUATION_CONTEXT = 2
    EVALUATION_RESET = 3
    EMBEDDING = 4


def seed_sequence(seed: int, stream: Stream, *keys: int) -> np.random.SeedSequence:
    """The seed of one stream of the run `seed`. `keys` select a part of it, always equally many."""
    return np.random.SeedSequence([seed, stream, *keys])


def generator(seed: int, stream: Stream, *keys: int) -> np.random.Generator:
    return np.random.default_rng(seed_sequence(seed, stream, *keys))


@dataclass(frozen=True)
class Evaluation:
    """What a policy earned and where it went in every task of a split.

    `returns` (n_tasks, episodes) float64 are undiscounted sums of the environment's own reward.
    `observations` (n_tasks, episodes, horizon + 1, observation_dim) float32 repeat the last one of an episode
    after its end.
    """

    split: str
    task_ids: tuple[int, ...]
    returns: np.ndarray
    observations: np.ndarray
    score: float


def offline(
    algorithm: Algorithm,
    dataset: MultiTaskDataset,
    task_ids: Sequence[int],
    context_size: int,
    generators: Sequence[np.random.Generator],
) -> Policy:
    """FOCAL, Algorithm 2: the context is drawn from the test task's own logged data."""
    return algorithm.adapt(draw_context(algorithm, dataset, task_ids, context_size, generators))


def draw_context(
    algorithm: Algorithm,
    dataset: MultiTaskDataset,
    task_ids: Sequence[int],
    context_size: int,
    generators: Sequence[np.random.Generator],
) -> Context:
    """`dataset.draw_context` with the tasks themselves where `algorithm` is privileged."""
    context = dataset.draw_context(task_ids, context_size, generators)
    if not algorithm.privileged:
        return context
    ids = torch.as_tensor(task_ids)
    parameters = standardised_parameters(dataset.spec.tasks)[ids]
    return replace(context, task_parameters=parameters.to(algorithm.device), task_ids=ids)


PROTOCOLS = {"offline": offline}  # protocol -> how it makes the policy of `task_ids`, one entry per episode


@torch.no_grad()
def evaluate(
    algorithm: Algorithm,
    dataset: MultiTaskDataset,
    split: str,
    episodes: int,
    seed: int,
    evaluation_index: int,
    context_size: int,
    protocol: str = "offline",
) -> Evaluation:
    """Run `episodes` episodes in every task of `split`, all of them at once.

    Every (task, episode) has a context and a start of its own, which depend on nothing but the run's seed, the index
    of the evaluation, the task and the episode. Raises Diverged if an action is not finite.
    """
    spec = dataset.spec
    task_ids = spec.tasks.splits[split]
    members = [(task, episode) for task in task_ids for episode in range(episodes)]
    tasks = [task for task, _ in members]
    generators = [generator(seed, Stream.EVALUATION_CONTEXT, evaluation_index, *member) for member in members]
    policy = PROTOCOLS[protocol](algorithm, dataset, tasks, context_size, generators)

    reset_seeds = [
        int(seed_sequence(seed, Stream.EVALUATION_RESET, evaluation_index, *member).generate_state(1)[0])
        for member in members
    ]
    envs = spec.make_vector(tasks)
    returns, observations = roll_out(envs, policy, reset_seeds, algorithm.device, dataset.standardized)
    envs.close()
    return Evaluation(
        split,
        tuple(task_ids),
        returns.reshape(len(task_ids), episodes),
        observations.reshape(len(task_ids), episodes, *observations.shape[1:]),
        float(normalized_score(spec.name, split, float(returns.mean()))),
    )


def roll_out(
    envs: VectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    device: torch.device,
    standardized: Callable[[Tensor], Tensor] = lambda observations: observations,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (n,) and observations (n, horizon + 1, observation_dim) of one episode in each of n `envs`.

    `seeds` (n,) decide the starts; the policy acts on `standardized` observations. Raises Diverged if an action is not
    finite.
    """
    observations, _ = envs.reset(seed=seeds)
    seen = [observations]
    returns, running = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
    for _ in range(envs.meta_env.horizon):
        actions = policy.act(standardized(torch.as_tensor(observations, device=device))).cpu().numpy()
        if not np.isfinite(actions).all():
            raise Diverged("the policy's actions are not finite")
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        returns += np.where(running, rewards, 0.0)
        seen.append(np.where(running[:, None], observations, seen[-1]))
        running &= ~(terminated | truncated)
    return returns, np.stack(seen, 1)


@torch.no_grad()
def embed_tasks(
    algorithm: Algorithm,
    dataset: MultiTaskDataset,
    task_ids: Sequence[int],
    contexts_per_task: int,
    seed: int,
    context_size: int,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Task ids (n,) and embeddings (n, latent) of contexts of `task_ids`, at every call the same of a task; None
    without embeddings."""
    members = [(task, k) for task in task_ids for k in range(contexts_per_task)]
    tasks = [task for task, _ in members]
    generators = [generator(seed, Stream.EMBEDDING, *member) for member in members]
    embeddings = algorithm.embed(draw_context(algorithm, dataset, tasks, context_size, generators))
    return None if embeddings is None else (np.array(tasks), embeddings.cpu().numpy())
