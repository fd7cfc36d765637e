"""Checks of the contracts with the suite, for methods and meta-environments of this package and of others.

`check_algorithm(MyMethod)` belongs in the tests of whoever writes a method, `check_meta_env(SPEC)` in those of whoever
writes a meta-environment; `random_batch` and `random_context` are data of the right shapes.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils.env_checker import check_env
from torch import Tensor, nn

from omrlbench.algorithms.algorithm import (
    LAST_STAGE,
    Algorithm,
    AlgorithmConfig,
    Context,
    InteractionConfig,
    MetaBatch,
    Problem,
)
from omrlbench.envs.registry import MetaEnvSpec, register
from omrlbench.envs.tasks import SPLITS
from omrlbench.weights import exported_tensors

PROBLEM = Problem(observation_dim=3, action_dim=2, task_dim=2, n_train_tasks=6)
SMALL = {"meta_batch": 4, "batch_size": 8, "context_size": 5}
UPDATES = 4
EVALUATED_TASKS = 5
EVALUATED = (1, 3, 4, 6, 8)  # numbers of tasks whose datasets a method learns from
ADVICE = "call context.check_finite()"


def random_context(
    problem: Problem, tasks: int, size: int, seed: int = 0, *, privileged: bool = False, device: str = "cpu"
) -> Context:
    """`size` random transitions of each of `tasks` tasks, with the tasks themselves for privileged methods, and their
    numbers for those that learn from the datasets of `problem.evaluated_tasks`.
    """
    g = torch.Generator().manual_seed(seed)
    observations, next_observations = torch.randn(2, tasks, size, problem.observation_dim, generator=g).to(device)
    actions = (torch.rand(tasks, size, problem.action_dim, generator=g) * 2 - 1).to(device)
    context = Context(observations, actions, torch.randn(tasks, size, generator=g).to(device), next_observations)
    if problem.evaluated_tasks:
        known = torch.tensor(problem.evaluated_tasks)
        context = replace(context, task_ids=known[torch.arange(tasks) % len(known)])
    if not privileged:
        return context
    parameters = torch.randn(tasks, problem.task_dim, generator=g).to(device)
    ids = torch.arange(tasks) % problem.n_train_tasks if context.task_ids is None else context.task_ids
    return replace(context, task_parameters=parameters, task_ids=ids)


def random_batch(algorithm: Algorithm, seed: int = 0, terminated: float = 0.0) -> MetaBatch:
    """A meta-batch of random transitions in the sizes that `algorithm` asks for."""
    problem, device = algorithm.problem, algorithm.device
    g = torch.Generator().manual_seed(seed)
    tasks, size = algorithm.tasks_per_batch, algorithm.transitions_per_task
    own = len(problem.evaluated_tasks) if algorithm.learns_from == "evaluated" else 0
    contexts = [random_context(problem, tasks, algorithm.context_per_task, seed + k, device=device) for k in (1, 2)]
    observations, next_observations = torch.randn(2, tasks, size, problem.observation_dim, generator=g).to(device)
    return MetaBatch(
        tasks=torch.randperm(own or problem.n_train_tasks, generator=g)[:tasks],
        observations=observations,
        actions=(torch.rand(tasks, size, problem.action_dim, generator=g) * 2 - 1).to(device),
        rewards=torch.randn(tasks, size, generator=g).to(device),
        next_observations=next_observations,
        terminated=torch.full((tasks, size), terminated, device=device),
        contexts=(contexts[0], contexts[1]),
        task_parameters=torch.randn(tasks, problem.task_dim, generator=g).to(device) if algorithm.privileged else None,
    )


def check_algorithm(
    method: type[Algorithm], config: AlgorithmConfig | None = None, problem: Problem = PROBLEM, device: str = "cpu"
) -> None:
    """Raise AssertionError, naming the rule, if `method` breaks the contract of `Algorithm`.

    `config` is by default the method's own with batches of a few transitions. Checked are: an update returns detached
    scalars and changes every parameter that an optimiser holds and no other that could be trained; equal seeds give
    equal numbers; a saved and loaded learner goes on bitwise as if it had never stopped; `adapt` leaves the learner
    alone, refuses NaN, takes one task or many and contexts of one transition, and does not depend on the order of
    transitions (unless `order_invariant` is False); actions are finite, within [-1, 1], and of one task the same
    whatever tasks are beside it (unless `deterministic` is False); `prior`, where there is one, acts without a context;
    a method that interacts explores with noise of the given generator alone, and labels where it sees no rewards; a
    learner that is given no more than what another one exports acts as that one does; evaluated tasks are learned from
    with the allowance "dataset" alone.
    """
    config = config or method.Config(**SMALL)
    if method.allowance == "dataset" and not problem.evaluated_tasks:
        problem = replace(problem, evaluated_tasks=EVALUATED)

    def fresh(seed: int = 0) -> Algorithm:
        torch.manual_seed(seed)
        return method(problem, config, seed, device)

    _check_update(fresh())
    _check_repetition(fresh)
    trained = fresh()
    list(_updates(trained))
    _check_adapt(trained)
    _check_prior(trained)
    _check_interaction(trained)
    _check_exported(trained, fresh(seed=1))


def _updates(algorithm: Algorithm, first: int = 0, last: int | None = None) -> Iterator[dict[str, Tensor]]:
    """The metrics of UPDATES updates in each stage, or of those from `first` to before `last` over all stages."""
    steps = [(stage, k) for stage in (*algorithm.stages, LAST_STAGE) for k in range(UPDATES)]
    for stage, k in steps[first:last]:
        algorithm.stage = stage
        allowed = algorithm.learns_from == "train" or algorithm.allowance == "dataset"
        assert allowed, f'learns_from: stage {stage} wants evaluated tasks, set allowance = "dataset"'
        yield algorithm.update(random_batch(algorithm, seed=k))


def _check_update(algorithm: Algorithm) -> None:
    held = {id(p) for optimizer in _optimizers(algorithm) for group in optimizer.param_groups for p in group["params"]}
    before = {name: p.detach().clone() for name, p in _parameters(algorithm)}
    for metrics in _updates(algorithm):
        for name, value in metrics.items():
            scalar = isinstance(value, Tensor) and value.ndim == 0 and not value.requires_grad
            assert scalar, f"update: the metric {name!r} is not a detached scalar tensor"
            assert torch.isfinite(value), f"update: the metric {name!r} is {value}"
    for name, parameter in _parameters(algorithm):
        changed = not torch.equal(before[name], parameter)
        if id(parameter) in held:
            assert changed, f"update: {name} is in an optimiser and did not change in {UPDATES} updates"
        elif parameter.requires_grad:
            assert not changed, f"update: {name} changed and is in no optimiser"


def _check_repetition(fresh: Any) -> None:
    whole, first, resumed = fresh(), fresh(), fresh(seed=1)
    middle = UPDATES * (1 + len(whole.stages)) // 2
    list(_updates(whole))
    list(_updates(first, last=middle))
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    list(_updates(resumed, first=middle))
    assert _equal(whole.state_dict(), resumed.state_dict()), (
        "resume: a learner that was saved and loaded does not go on as one that never stopped; "
        "draw noise from self.generator and keep all state in attributes"
    )


def _check_adapt(algorithm: Algorithm) -> None:
    context = _context(algorithm, EVALUATED_TASKS, 7)
    observations = torch.randn(EVALUATED_TASKS, algorithm.problem.observation_dim).to(algorithm.device)
    before = copy.deepcopy(algorithm.state_dict())
    actions = algorithm.adapt(context).act(observations)
    assert _equal(before, algorithm.state_dict()), "adapt: it changed the learner"
    assert actions.shape == (EVALUATED_TASKS, algorithm.problem.action_dim), f"act: actions {tuple(actions.shape)}"
    assert torch.isfinite(actions).all() and actions.abs().max() <= 1, "act: actions are not within [-1, 1]"
    assert not actions.requires_grad, "act: actions carry a gradient"

    assert torch.equal(actions, algorithm.adapt(context).act(observations)), "adapt: the same context acts differently"
    if algorithm.order_invariant and algorithm.deterministic:
        shuffled = _take(context, slice(None), torch.randperm(7))
        again = algorithm.adapt(shuffled).act(observations)
        close = torch.allclose(actions, again, atol=1e-4)
        assert close, "adapt: it depends on the order of transitions; else set order_invariant = False"
    if algorithm.deterministic:
        one = algorithm.adapt(_take(context, slice(2, 3))).act(observations[2:3])
        assert torch.allclose(one, actions[2:3], atol=1e-4), "adapt: a task's actions depend on the tasks beside it"
    algorithm.adapt(_context(algorithm, 1, 1)).act(observations[:1])
    for name in ("observations", "actions", "rewards", "next_observations"):
        broken = replace(context, **{name: getattr(context, name) * torch.nan})
        try:
            algorithm.adapt(broken)
        except ValueError as error:
            assert name in str(error), f"adapt: the error for NaN in {name} does not name it; {ADVICE}"
        else:
            raise AssertionError(f"adapt: it takes NaN in {name}; {ADVICE}")


def _check_prior(algorithm: Algorithm) -> None:
    generator = torch.Generator(algorithm.device).manual_seed(0)
    try:
        policy = algorithm.prior(EVALUATED_TASKS, generator)
    except NotImplementedError:
        return
    actions = policy.act(torch.zeros(EVALUATED_TASKS, algorithm.problem.observation_dim, device=algorithm.device))
    assert torch.isfinite(actions).all() and actions.abs().max() <= 1, "prior: actions are not within [-1, 1]"


def _check_interaction(algorithm: Algorithm) -> None:
    if algorithm.experience == "logs":
        return
    assert isinstance(algorithm.config, InteractionConfig), (
        "Config: of a method that interacts, not an InteractionConfig"
    )
    context = _context(algorithm, EVALUATED_TASKS, 7)
    observations = torch.randn(EVALUATED_TASKS, algorithm.problem.observation_dim).to(algorithm.device)
    before = copy.deepcopy(algorithm.state_dict())

    def generator() -> torch.Generator:
        return torch.Generator(algorithm.device).manual_seed(0)

    for known in (None, context):
        first, second = (algorithm.explore(EVALUATED_TASKS, known, generator()).act(observations) for _ in range(2))
        assert torch.isfinite(first).all() and first.abs().max() <= 1, "explore: actions are not within [-1, 1]"
        assert torch.equal(first, second), "explore: the same generator acts differently; draw all noise from it"
    if algorithm.experience == "logs and reward-free interaction":
        for labels in algorithm.label(context, context.observations, context.actions, generator()):
            same = labels.shape == context.rewards.shape and not labels.requires_grad
            assert same and torch.isfinite(labels).all(), "label: not one finite reward per transition, detached"
    assert _equal(before, algorithm.state_dict()), "explore or label: it changed the learner"


def _check_exported(trained: Algorithm, other: Algorithm) -> None:
    exported = exported_tensors(trained)
    for name, tensor in exported_tensors(other).items():
        tensor.data.copy_(exported[name])
    context = _context(trained, EVALUATED_TASKS, 7)
    observations = torch.randn(EVALUATED_TASKS, trained.problem.observation_dim).to(trained.device)

    def actions(algorithm: Algorithm) -> list[Tensor]:
        policies = [algorithm.adapt(context)]
        with contextlib.suppress(NotImplementedError):
            policies.append(algorithm.prior(EVALUATED_TASKS, torch.Generator(algorithm.device).manual_seed(0)))
        return [policy.act(observations) for policy in policies]

    assert _equal(actions(trained), actions(other)), (
        "exported: what it gives is not all that adapt and prior need; keep what they use in modules and tensors"
    )


def check_meta_env(spec: MetaEnvSpec) -> None:
    """Raise AssertionError, naming the rule, if a meta-environment breaks the contract of `MetaEnvSpec`.

    Checked are: splits hold every task, the test tasks are there; the single environment passes gymnasium's checker,
    takes `task_id` at construction and as a reset option, reports every kind of reward in `info` and its own as the
    reward, acts within [-1, 1], and is truncated after `horizon` steps at the latest; a vector environment
    equals single ones with the same tasks, seeds and actions, and its members wait at their ends until they are reset
    by a mask. Behaviour policies and references are not checked: they are made from what is.
    """
    register(spec)
    _check_tasks(spec)
    _check_single(spec)
    _check_vector(spec)


def _check_tasks(spec: MetaEnvSpec) -> None:
    tasks = spec.tasks
    assert set(tasks.splits) == set(SPLITS), f"tasks: splits are {sorted(tasks.splits)}, expected {sorted(SPLITS)}"
    assert tasks.splits["train"] and tasks.splits["test"], "tasks: there are no training or no test tasks"
    listed = {task for ids in tasks.splits.values() for task in ids}
    assert listed == set(range(len(tasks))), "tasks: the splits do not hold every task"
    assert len(tasks.parameter_names) == tasks.parameters.shape[1], "tasks: parameters and their names differ in number"
    assert np.isfinite(tasks.parameters).all(), "tasks: parameters are not finite"
    assert spec.reward in spec.rewards, f"rewards: {spec.reward!r} is not among {spec.rewards}"


def _check_single(spec: MetaEnvSpec) -> None:
    env = spec.make(0)
    check_env(env.unwrapped, skip_render_check=True)
    space = env.action_space
    box = isinstance(space, gymnasium.spaces.Box) and (space.low == -1).all() and (space.high == 1).all()
    assert box, f"actions: the space is {space}, expected a Box within [-1, 1]"
    last = len(spec.tasks) - 1
    first, _ = spec.make(last).reset(seed=3)
    again, _ = env.reset(seed=3, options={"task_id": last})
    assert np.array_equal(first, again), "reset: the option task_id and the argument task_id start differently"
    space.seed(0)
    steps = 0
    for _ in range(spec.horizon):
        steps += 1
        _, reward, terminated, truncated, info = env.step(space.sample())
        for kind in spec.rewards:
            assert f"{kind}_reward" in info, f"step: info has no {kind}_reward"
        assert reward == info[f"{spec.reward}_reward"], f"step: the reward is not info's {spec.reward}_reward"
        if terminated or truncated:
            break
    assert terminated or truncated, f"step: no end after {spec.horizon} steps"
    assert terminated or steps == spec.horizon, f"step: truncated after {steps} steps, the horizon is {spec.horizon}"
    env.close()


def _check_vector(spec: MetaEnvSpec) -> None:
    tasks = [0, len(spec.tasks) - 1, 0]
    vector, singles = spec.make_vector(tasks), [spec.make(task) for task in tasks]
    seen, _ = vector.reset(seed=5)
    alone = np.stack([env.reset(seed=5 + k)[0] for k, env in enumerate(singles)])
    assert np.array_equal(seen, alone), "vector: its starts are not those of single environments with seeds seed + k"
    generator, ended = np.random.default_rng(0), np.zeros(len(tasks), bool)
    for _ in range(spec.horizon + 1):
        actions = generator.uniform(-1, 1, vector.action_space.shape).astype(vector.action_space.dtype)
        seen, rewards, terminated, truncated, infos = vector.step(actions)
        for k in np.flatnonzero(ended):
            waits = rewards[k] == 0 and (terminated[k] or truncated[k]) and np.array_equal(seen[k], alone[k])
            assert waits, "vector: a member whose episode has ended does not wait for a reset"
        for k in np.flatnonzero(~ended):
            alone[k], reward, *flags, info = singles[k].step(actions[k])
            same = np.allclose(seen[k], alone[k], atol=1e-6) and np.isclose(rewards[k], reward, atol=1e-6)
            assert same and [terminated[k], truncated[k]] == flags, "vector: a member is not its single environment"
            for kind in spec.rewards:
                reported = np.isclose(infos[f"{kind}_reward"][k], info[f"{kind}_reward"], atol=1e-6)
                assert reported, f"vector: infos' {kind}_reward is not that of the single environment"
        ended |= terminated | truncated
    assert ended.all(), "vector: members do not end"
    mask = np.array([True, False, False])
    restarted, _ = vector.reset(seed=[5, 6, 7], options={"reset_mask": mask})
    assert np.array_equal(restarted[1:], seen[1:]), "vector: a reset by a mask changes members outside it"
    assert np.array_equal(restarted[0], singles[0].reset(seed=5)[0]), (
        "vector: a member reset by a mask starts differently"
    )
    vector.close()


def _context(algorithm: Algorithm, tasks: int, size: int) -> Context:
    return random_context(algorithm.problem, tasks, size, privileged=algorithm.privileged, device=algorithm.device)


def _take(context: Context, tasks: slice, order: Tensor | slice = slice(None)) -> Context:
    """The context of some tasks, transitions in another order."""
    columns = ("observations", "actions", "rewards", "next_observations")
    of_tasks = {
        name: getattr(context, name)[tasks]
        for name in ("task_parameters", "task_ids")
        if getattr(context, name) is not None
    }
    return Context(**{name: getattr(context, name)[tasks][:, order] for name in columns}, **of_tasks)


def _optimizers(algorithm: Algorithm) -> list[torch.optim.Optimizer]:
    return [value for value in vars(algorithm).values() if isinstance(value, torch.optim.Optimizer)]


def _parameters(algorithm: Algorithm) -> Iterator[tuple[str, nn.Parameter]]:
    for attribute, value in vars(algorithm).items():
        if isinstance(value, nn.Module):
            yield from ((f"{attribute}.{name}", parameter) for name, parameter in value.named_parameters())


def _equal(first: Any, second: Any) -> bool:
    """Whether two nested states are the same, bit by bit."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    return first == second
