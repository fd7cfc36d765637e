"""Every method and meta-environment of the package keeps its contract, and broken rules are noticed."""

from dataclasses import replace

import pytest
import torch

from omrlbench.algorithms.algorithm import Problem
from omrlbench.algorithms.bc import BehaviorCloning
from omrlbench.algorithms.brac import LatentPolicy
from omrlbench.envs.registry import META_ENVS
from omrlbench.registry import ALGORITHMS, VARIANTS, algorithm_class, variant_values
from omrlbench.testing import PROBLEM, SMALL, check_algorithm, check_meta_env

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
POINT_ROBOT = Problem(observation_dim=2, action_dim=2, task_dim=2, n_train_tasks=6, env="sparse_point_robot")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [*ALGORITHMS, *VARIANTS])
def test_every_method_keeps_the_contract(name, device):
    method = algorithm_class(name)
    config = method.Config(**SMALL | variant_values(name))
    check_algorithm(method, config, POINT_ROBOT if name == "expert_policy" else PROBLEM, device)


@pytest.mark.parametrize("bad", [-1.0, float("nan")])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_rates_and_weights_below_zero_are_refused(name, bad):
    config = algorithm_class(name).Config()
    names = [name for name, value in vars(config).items() if isinstance(value, float) and "log_std" not in name]
    for name in names:
        with pytest.raises(ValueError, match=name):
            replace(config, **{name: bad})


class Forgetful(BehaviorCloning):
    """Breaks one rule, by `fault`."""

    fault = ""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        if self.fault == "unseeded":
            self.hidden = [0.0]
        if self.fault == "idle":
            self.idle = torch.nn.Linear(2, 2)
            self.idle_optimizer = torch.optim.Adam(self.idle.parameters())

    @property
    def learns_from(self):
        return "evaluated" if self.fault == "curious" else "train"

    def update(self, batch):
        metrics = super().update(batch)
        if self.fault == "unseeded":
            self.actor[0].bias.data += 1e-3 * torch.rand(())
        if self.fault == "attached":
            metrics["extra"] = next(self.actor.parameters()).sum()
        return metrics

    def adapt(self, context):
        if self.fault == "learns":
            self.codes += 1
        if self.fault == "takes nan":
            return LatentPolicy(self.actor, self.embed(context))
        policy = super().adapt(context)
        if self.fault == "ordered":
            policy.z = policy.z + context.rewards[:, :1]
        if self.fault == "mixes tasks":
            policy.z = policy.z + policy.z.mean(0)
        if self.fault == "unbounded":
            policy.act = lambda observations: 3 * torch.ones(len(observations), 2)
        return policy

    def exported(self):
        kept = super().exported()
        return {name: kept[name] for name in ("encoder", "actor")} if self.fault == "keeps codes" else kept


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("unseeded", "does not go on as one that never stopped"),
        ("idle", "idle.weight is in an optimiser and did not change"),
        ("attached", "'extra' is not a detached scalar"),
        ("learns", "adapt: it changed the learner"),
        ("takes nan", "takes NaN in observations"),
        ("ordered", "depends on the order of transitions"),
        ("mixes tasks", "depend on the tasks beside it"),
        ("unbounded", r"not within \[-1, 1\]"),
        ("curious", 'learns_from: stage train wants evaluated tasks, set allowance = "dataset"'),
        ("keeps codes", "exported: what it gives is not all that adapt and prior need"),
    ],
)
def test_a_broken_rule_is_named(monkeypatch, fault, message):
    monkeypatch.setattr(Forgetful, "fault", fault)
    with pytest.raises(AssertionError, match=message):
        check_algorithm(Forgetful)


@pytest.mark.parametrize("spec", META_ENVS.values(), ids=META_ENVS)
def test_every_meta_environment_keeps_the_contract(spec):
    check_meta_env(spec)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 19}, "truncated after 20 steps, the horizon is 19|no end after 19 steps"),
        ({"rewards": ("dense",)}, "'sparse' is not among"),
        ({"rewards": ("dense", "sparse", "other")}, "info has no other_reward"),
        ({"vector_entry_point": "omrlbench.envs.vector:InTurn"}, None),
    ],
)
def test_a_broken_rule_of_a_meta_environment_is_named(changes, message):
    spec = replace(META_ENVS["sparse_point_robot"], **changes)
    if message is None:
        check_meta_env(spec)  # the vector environment of those that have none of their own
    else:
        with pytest.raises(AssertionError, match=message):
            check_meta_env(spec)
