"""MerPO's proximal rounds, distillation and adaptive weight against values worked out by hand."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from omrlbench.algorithms import merpo
from omrlbench.algorithms.merpo import ALPHA_RATE, MerPO
from omrlbench.testing import PROBLEM, SMALL, check_algorithm, random_batch

EVALUATED = replace(PROBLEM, evaluated_tasks=(2, 5))  # beside six training tasks
SIZES = SMALL | {"task_width": 16, "model_width": 16, "model_layers": 2, "members": 3, "elites": 2, "rollout_length": 2}
SIZES |= {"dynamics_steps": 6, "inner_steps": 2}
STAGES = ("dynamics", "meta_policy", "models", "train")


def fresh(**changes):
    return MerPO(EVALUATED, MerPO.Config(**SIZES | changes), seed=0)


def update(algorithm, stage, seed=0):
    algorithm.stage = stage
    return algorithm.update(random_batch(algorithm, seed=seed))


def modules(algorithm):
    """Those of the evaluated tasks and the shared ones by name, those of the training tasks as `training.<name>`."""
    own = {name: value for name, value in vars(algorithm).items() if isinstance(value, nn.Module)}
    training = {f"training.{name}": value for name, value in vars(algorithm.training).items()}
    return own | {name: value for name, value in training.items() if isinstance(value, nn.Module)}


def parameters(algorithm):
    return {name: [p.detach().clone() for p in module.parameters()] for name, module in modules(algorithm).items()}


def moved_by(algorithm, stage, seed=0):
    """The modules that one update of `stage` changes, those that are shared with the training tasks once."""
    before = parameters(algorithm)
    update(algorithm, stage, seed)
    shared = {"training.meta_policy", "training.meta_models"}
    return {
        name
        for name, module in modules(algorithm).items()
        if any(not torch.equal(b, p) for b, p in zip(before[name], module.parameters(), strict=True))
    } - shared


# ---------------------------------------------------------------- stage 1: meta-models


def test_a_round_starts_from_the_meta_models_and_ends_by_moving_them():
    algorithm = fresh(outer_rate=0.25)
    meta, models = algorithm.meta_models, algorithm.training.models
    first = [p.clone() for p in meta.network.parameters()]
    assert moved_by(algorithm, "dynamics") == {"training.models"}
    assert 0 < models.distance(meta).item() < 1  # one step away, where its own random start was far
    assert moved_by(algorithm, "dynamics", seed=1) == {"training.models", "meta_models", "models"}
    for before, shared, own in zip(first, meta.network.parameters(), models.network.parameters(), strict=True):
        mean = own.unflatten(0, (6, 3)).mean(0)  # of six tasks with three members each
        torch.testing.assert_close(shared, before - 0.25 * (before - mean))
    assert algorithm.models.distance(meta).item() == 0


def test_every_round_begins_without_the_optimisers_memory():
    algorithm = fresh()
    for k in range(3):
        update(algorithm, "dynamics", seed=k)
    steps = {int(state["step"]) for state in algorithm.training.model_optimizer.state.values()}
    assert steps == {1}


def test_models_stay_near_the_meta_models_in_training_and_evaluated_tasks():
    """Every parameter is 1 away: |theta - phi|^2 is their number, eta = 0.5."""
    algorithm = fresh(proximal_weight=0.5)
    update(algorithm, "dynamics")
    for learner, stage in ((algorithm.training, "dynamics"), (algorithm, "models")):
        learner.models.start_from(algorithm.meta_models)
        for parameter in learner.models.parameters():
            parameter.data += 1.0
        algorithm.stage = stage
        batch = random_batch(algorithm)
        columns = (batch.observations, batch.actions, batch.rewards, batch.next_observations, batch.terminated)
        loss, errors = learner.model_loss(*columns)
        count = sum(p.numel() for p in learner.models.parameters())
        assert (loss - errors.sum()).item() == pytest.approx(0.5 * count, rel=1e-3)


def test_all_models_have_the_units_of_the_training_tasks():
    algorithm = fresh()
    for k in range(2):
        update(algorithm, "dynamics", seed=k)
    update(algorithm, "models")
    units = algorithm.meta_models.scale
    assert algorithm.training.models.scale.eq(units).all() and algorithm.models.scale.eq(units).all()


# ---------------------------------------------------------------- stage 2: meta-policy


def test_distillation_by_hand(put_out):
    """Policies N(1, 1) in each of two dimensions, of standard deviation 1 as the meta-policy's N(0, 1)."""
    algorithm = fresh()
    put_out(algorithm.training.actors, 1.0, 1.0, 0.0, 0.0)
    put_out(algorithm.meta_policy, 0.0, 0.0, 0.0, 0.0)
    loss = algorithm.distillation_loss(torch.randn(6, 8, 3))
    assert loss.item() == pytest.approx(1.0)
    loss.backward()
    assert all(p.grad is None for p in algorithm.training.actors.parameters())
    assert algorithm.meta_policy[-1].bias.grad.flatten().tolist() == pytest.approx([-1.0, -1.0, -1.0, -1.0])


def test_evaluated_policies_follow_the_meta_policy_until_their_own_stage():
    algorithm = fresh()
    update(algorithm, "meta_policy")
    for own, shared in zip(algorithm.actors.parameters(), algorithm.meta_policy.parameters(), strict=True):
        assert torch.equal(own, shared.expand_as(own))
    update(algorithm, "train")
    changed = zip(algorithm.actors.parameters(), algorithm.meta_policy.parameters(), strict=True)
    assert not any(torch.equal(own, shared.expand_as(own)) for own, shared in changed)


def test_the_policies_of_the_training_tasks_do_not_move_the_meta_policy_by_themselves():
    algorithm = fresh()
    learner, s = algorithm.training, torch.randn(6, 8, 3)
    loss, _ = learner.actor_loss(s, torch.zeros(6, 8, 2), s)
    loss.backward()
    assert all(p.grad is None for p in algorithm.meta_policy.parameters())


# ---------------------------------------------------------------- adaptive weight


@pytest.mark.parametrize(("meta", "wanted"), [(1.0, 0.5), (1.1, 0.4), (0.8, 0.7), (0.0, 0.9), (9.0, 0.1)])
def test_adaptive_weight_by_hand(monkeypatch, meta, wanted):
    """Logged actions are worth 0 and 2, of mean 1 and standard deviation 1 (8 rows: sqrt(8 / 7)); kappa = sqrt(8 / 7).

    A meta-policy that is worth 0.1 more takes 0.1 from the half, one that is worth 0.2 less adds 0.2.
    """
    algorithm = fresh(adaptive_alpha=True, alpha_slope=(8 / 7) ** 0.5)
    s, a = torch.randn(2, 8, 3), torch.randn(2, 8, 2)
    logged = torch.tensor([0.0, 2.0]).repeat(4).expand(2, 2, 8)
    monkeypatch.setattr(merpo, "twin_q", lambda critics, s, x: logged if x is a else torch.full((2, 2, 8), meta))
    algorithm.update_alpha(algorithm, s, a)
    assert algorithm.alpha.tolist() == pytest.approx([0.4 + ALPHA_RATE * (wanted - 0.4)] * 2)


def test_only_the_adaptive_weight_moves():
    for adaptive in (True, False):
        algorithm = fresh(adaptive_alpha=adaptive)
        for stage, learner in (("meta_policy", algorithm.training), ("train", algorithm)):
            update(algorithm, stage)
            assert (learner.alpha != torch.tensor(0.4)).any().item() == adaptive


# ---------------------------------------------------------------- stages


def test_each_stage_moves_its_own_networks():
    algorithm = fresh()
    solver = {"training.critics", "training.critic_target", "training.actors"}
    assert moved_by(algorithm, "meta_policy") == solver | {"meta_policy", "actors"}
    assert moved_by(algorithm, "models") == {"models"}
    assert moved_by(algorithm, "train") == {"critics", "critic_target", "actors"}


def test_the_evaluated_tasks_are_seen_in_the_last_stages_alone():
    algorithm = fresh()
    seen = {}
    for stage in STAGES:
        algorithm.stage = stage
        seen[stage] = (algorithm.learns_from, algorithm.tasks_per_batch, algorithm.transitions_per_task)
    assert seen == {
        "dynamics": ("train", 6, 24),
        "meta_policy": ("train", 6, 8),
        "models": ("evaluated", 2, 24),
        "train": ("evaluated", 2, 8),
    }
    assert list(algorithm.stages) == list(STAGES[:-1])


def test_without_meta_models_every_task_begins_by_itself():
    algorithm = fresh(meta_models=False)
    assert algorithm.meta_models is None
    for k in range(2):
        assert moved_by(algorithm, "dynamics", seed=k) == {"training.models"}
    assert not algorithm.models.standardized


@pytest.mark.parametrize("meta_models, in_dynamics", [(True, 1e-3), (False, 5e-4)])
def test_learning_rates_fall_in_every_stage_but_the_rounds_of_the_meta_models(meta_models, in_dynamics):
    algorithm = fresh(meta_models=meta_models)
    for stage, expected in (("dynamics", in_dynamics), ("meta_policy", 5e-4)):
        algorithm.stage = stage
        algorithm.scale_learning_rates(0.5)
        assert algorithm.training.model_optimizer.param_groups[0]["lr"] == pytest.approx(expected)
    assert algorithm.actor_optimizer.param_groups[0]["lr"] == pytest.approx(1.5e-4)


@pytest.mark.parametrize("stop", [1, 4, 7, 10])  # within a round, and within each later stage
def test_a_saved_learner_goes_on_bitwise(stop):
    order = [(stage, seed) for stage in STAGES for seed in range(3)]
    whole, saved = fresh(), fresh()
    resumed = MerPO(EVALUATED, saved.config, seed=1)
    for stage, seed in order:
        update(whole, stage, seed)
    for stage, seed in order[:stop]:
        update(saved, stage, seed)
    resumed.load_state_dict(copy.deepcopy(saved.state_dict()))
    for stage, seed in order[stop:]:
        update(resumed, stage, seed)
    expected = parameters(whole)
    for name, own in parameters(resumed).items():
        assert all(map(torch.equal, own, expected[name])), name


@pytest.mark.parametrize("values", [{}, {"meta_models": False}, {"adaptive_alpha": True}])
def test_contract(values):
    check_algorithm(MerPO, MerPO.Config(**SIZES | values))


def test_rounds_fit_into_their_stage():
    with pytest.raises(ValueError, match="dynamics_steps must be a multiple of inner_steps, 4, not 6"):
        MerPO.Config(**SIZES | {"inner_steps": 4})
