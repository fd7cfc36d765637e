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
COLLECTION_EPISODES = 2  # before the measured one where context is self-collected, PEARL's number on most environments


class Stream(IntEnum):
    """The independent random streams of a run."""

    LEARNER = 0
    BATCHES = 1
    EVALUATION_CONTEXT = 2
    EVALUATION_RESET = 3
    EMBEDDING = 4
    INTERACTION = 5


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
    after its end. `actions` (n_tasks, episodes, horizon, action_dim) are those that were asked for.
    """

    split: str
    task_ids: tuple[int, ...]
    returns: np.ndarray
    observations: np.ndarray
    actions: np.ndarray
    score: float


def from_logs(
    algorithm: Algorithm,
    dataset: MultiTaskDataset,
    task_ids: Sequence[int],
    context_size: int,
    generators: Sequence[np.random.Generator],
) -> Policy:
    """FOCAL, Algorithm 2: the context is drawn from data logged in the test task."""
    return algorithm.adapt(draw_context(algorithm, dataset, task_ids, context_size, generators))


def draw_context(
    algorithm: Algorithm,
    dataset: MultiTaskDataset,
    task_ids: Sequence[int],
    context_size: int,
    generators: Sequence[np.random.Generator],
) -> Context:
    """`dataset.draw_context` with what `algorithm` may know of the tasks."""
    return with_knowledge(algorithm, dataset, task_ids, dataset.draw_context(task_ids, context_size, generators))


def with_knowledge(
    algorithm: Algorithm, dataset: MultiTaskDataset, task_ids: Sequence[int], context: Context
) -> Context:
    """`context` with the tasks that it is of where `algorithm` learned from their data, or is told them."""
    ids = torch.as_tensor(task_ids)
    if not algorithm.privileged:
        return replace(context, task_ids=ids) if algorithm.allowance == "dataset" else context
    parameters = standardised_parameters(dataset.spec.tasks)[ids]
    return replace(context, task_parameters=parameters.to(algorithm.device), task_ids=ids)


def self_collected(
    algorithm: Algorithm,
    dataset: MultiTaskDataset,
    task_ids: Sequence[int],
    context_size: int,
    generators: Sequence[np.random.Generator],
) -> Policy:
    """PEARL's test: act by the prior, then by what was collected so far, and adapt to all of it."""
    policy, collected = prior(algorithm, task_ids, generators), []
    envs = dataset.spec.make_vector(task_ids)
    for _ in range(COLLECTION_EPISODES):
        seeds = [int(generator.integers(2**32)) for generator in generators]
        collected.append(roll_out(envs, policy, seeds, algorithm.device, dataset.standardized))
        context = draw_collected(collected, dataset, context_size, generators, algorithm.device)
        policy = algorithm.adapt(with_knowledge(algorithm, dataset, task_ids, context))
    envs.close()
    return policy


class InTurns(Policy):
    """Row i is of policy i modulo their number."""

    def __init__(self, policies: Sequence[Policy]):
        self.policies = policies

    def act(self, observations: Tensor) -> Tensor:
        count = len(self.policies)
        actions = [policy.act(observations[k::count]) for k, policy in enumerate(self.policies)]
        return torch.stack(actions, 1).flatten(0, 1)


def prior(algorithm: Algorithm, task_ids: Sequence[int], generators: Sequence[np.random.Generator]) -> Policy:
    """`algorithm.prior` of all tasks at once, drawn for each episode from the generator of its first task."""
    episodes = list(task_ids).count(task_ids[0])
    seeds = [int(generator.integers(2**63)) for generator in generators[:episodes]]
    draws = [torch.Generator(algorithm.device).manual_seed(seed) for seed in seeds]
    return InTurns([algorithm.prior(len(task_ids) // episodes, draw) for draw in draws])


def draw_collected(
    episodes: Sequence["Rollout"],
    dataset: MultiTaskDataset,
    size: int,
    generators: Sequence[np.random.Generator],
    device: torch.device,
) -> Context:
    """One context of `size` transitions per environment, uniform with replacement from all its `episodes`."""
    valid = np.concatenate([episode.running for episode in episodes], 1)
    draws = np.stack([generator.random(size) for generator in generators]) * valid.sum(1, keepdims=True)
    columns = np.take_along_axis(np.argsort(~valid, 1, kind="stable"), draws.astype(np.int64), 1)

    def drawn(parts: Sequence[np.ndarray]) -> Tensor:
        return torch.as_tensor(np.concatenate(parts, 1)[np.arange(len(valid))[:, None], columns], device=device)

    return Context(
        dataset.standardized(drawn([episode.observations[:, :-1] for episode in episodes])),
        drawn([episode.actions for episode in episodes]),
        drawn([episode.rewards[dataset.spec.reward] for episode in episodes]),
        dataset.standardized(drawn([episode.observations[:, 1:] for episode in episodes])),
    )


def headline_protocol(method: type[Algorithm]) -> str:
    """Under which the runs of `method` are scored: what interacts in training collects its contexts at test too."""
    return "offline" if method.experience == "logs" else "online"


PROTOCOLS = {  # how each makes the policy of `task_ids`, one entry per episode; `dataset` has the logs
    "offline": from_logs,
    "offline_shifted": from_logs,
    "online": self_collected,
}


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
    of the evaluation, the task and the episode; only what `prior` draws is shared by the tasks of an episode. Raises
    Diverged if an action is not finite, and NotImplementedError if the protocol needs a prior that the method lacks.
    """
    spec = dataset.spec
    task_ids = spec.tasks.splits[split]
    members = [(task, episode) for task in task_ids for episode in range(episodes)]
    tasks = [task for task, _ in members]
    generators = [generator(seed, Stream.EVALUATION_CONTEXT, evaluation_index, *member) for member in members]
    policy = PROTOCOLS[protocol](algorithm, dataset, tasks, context_size, generators)

    starts = [reset_seed(seed, evaluation_index, *member) for member in members]
    envs = spec.make_vector(tasks)
    rollout = roll_out(envs, policy, starts, algorithm.device, dataset.standardized)
    envs.close()
    each = len(task_ids), episodes
    return Evaluation(
        split,
        tuple(task_ids),
        rollout.returns.reshape(each),
        rollout.observations.reshape(*each, *rollout.observations.shape[1:]),
        rollout.actions.reshape(*each, *rollout.actions.shape[1:]),
        float(normalized_score(spec.name, split, float(rollout.returns.mean()))),
    )


def reset_seed(seed: int, evaluation_index: int, task: int, episode: int) -> int:
    """What the start of one episode of an evaluation derives from."""
    return int(seed_sequence(seed, Stream.EVALUATION_RESET, evaluation_index, task, episode).generate_state(1)[0])


@dataclass(frozen=True)
class Rollout:
    """One episode in each of n environments.

    returns (n,) float64; float32 observations (n, horizon + 1, observation_dim), which repeat the last one after an
    episode's end, actions (n, horizon, action_dim), and by kind rewards (n, horizon); running (n, horizon) marks the
    steps before the end, terminated (n, horizon) those that really ended an episode.
    """

    returns: np.ndarray
    observations: np.ndarray
    actions: np.ndarray
    rewards: dict[str, np.ndarray]
    running: np.ndarray
    terminated: np.ndarray


def roll_out(
    envs: VectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    device: torch.device,
    standardized: Callable[[Tensor], Tensor] = lambda observations: observations,
) -> Rollout:
    """One episode in each of n `envs`.

    `seeds` (n,) decide the starts; the policy acts on `standardized` observations. Raises Diverged if an action is not
    finite.
    """
    observations, _ = envs.reset(seed=seeds)
    seen, steps = [observations], []
    earned: dict[str, list[np.ndarray]] = {kind: [] for kind in envs.meta_env.rewards}
    returns, running = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
    for _ in range(envs.meta_env.horizon):
        actions = policy.act(standardized(torch.as_tensor(observations, device=device))).cpu().numpy()
        if not np.isfinite(actions).all():
            raise Diverged("the policy's actions are not finite")
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        returns += np.where(running, rewards, 0.0)
        steps.append((actions, running.copy(), running & terminated))
        for kind, values in earned.items():
            values.append(np.float32(infos[f"{kind}_reward"]))
        seen.append(np.where(running[:, None], observations, seen[-1]))
        running &= ~(terminated | truncated)
    actions, ran, ended = (np.stack(values, 1) for values in zip(*steps, strict=True))
    rewards = {kind: np.stack(values, 1) for kind, values in earned.items()}
    return Rollout(returns, np.stack(seen, 1), actions, rewards, ran, ended)


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
