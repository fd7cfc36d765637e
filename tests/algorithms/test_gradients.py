"""Which parameters each loss moves, for every method of the package."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from omrlbench.algorithms.algorithm import LAST_STAGE
from omrlbench.algorithms.brac import BRAC
from omrlbench.algorithms.networks import frozen
from omrlbench.registry import ALGORITHMS, VARIANTS, algorithm_class, variant_values
from omrlbench.testing import PROBLEM, SMALL, random_batch

BRAC_METHODS = [name for name in (*ALGORITHMS, *VARIANTS) if issubclass(algorithm_class(name), BRAC)]
COUPLED = {"focal_coupled", "batch_pearl", "batch_pearl_brac", "pearl"}
DECODERS = {"smac_offline": {"decoder"}, "smac": {"decoder", "context_decoder"}}  # learn with the encoder


def fresh(name, **changes):
    method = algorithm_class(name)
    known = {key: value for key, value in {"width": 16, "encoder_width": 16, "latent_dim": 3}.items()}
    fields = method.Config.__dataclass_fields__
    values = SMALL | {key: value for key, value in known.items() if key in fields} | variant_values(name)
    algorithm = method(PROBLEM, replace(method.Config(**values), **changes), seed=0)
    algorithm.stage = next(iter(algorithm.stages), LAST_STAGE)
    return algorithm


def transitions(algorithm):
    """s, a, r, s', terminated of as many transitions as there are codes."""
    batch = random_batch(algorithm)
    columns = (batch.observations, batch.actions, batch.rewards, batch.next_observations, batch.terminated)
    return batch, [column[:, 0] for column in columns]


@pytest.mark.parametrize("name", BRAC_METHODS)
def test_losses_of_the_actor_critic_move_their_own_networks(name, reached_by):
    algorithm = fresh(name)
    batch, (s, a, r, s_next, terminated) = transitions(algorithm)
    codes, encoder_loss, _ = algorithm.infer(batch)
    if algorithm.encoder:
        assert reached_by(algorithm, encoder_loss) == {"encoder"} | DECODERS.get(name, set())
        codes, _, _ = algorithm.infer(batch)
    attached = codes if algorithm.coupled else codes.detach()
    critic_loss = algorithm.critic_loss(s, a, r, s_next, terminated, attached, algorithm.alpha)
    assert reached_by(algorithm, critic_loss) == ({"critics", "encoder"} if name in COUPLED else {"critics"})
    z = codes.detach()
    with frozen(*filter(None, [algorithm.critics, algorithm.discriminator])):
        actor_loss, _ = algorithm.actor_loss(s, a, z, algorithm.alpha)
        assert reached_by(algorithm, actor_loss) == {"actor"}
    if algorithm.discriminator:
        discriminator_loss, _ = algorithm.discriminator_loss(s, a * 0.5, a, z)
        assert reached_by(algorithm, discriminator_loss) == {"discriminator"}


def test_the_reward_free_phase_of_smac_moves_actor_and_critics_alone():
    algorithm = fresh("smac")
    algorithm.stage = LAST_STAGE
    modules = {name: value for name, value in vars(algorithm).items() if isinstance(value, nn.Module)}
    before = {name: [p.clone() for p in module.parameters()] for name, module in modules.items()}
    algorithm.update(random_batch(algorithm))
    moved = {
        name
        for name, module in modules.items()
        if any(not torch.equal(b, p) for b, p in zip(before[name], module.parameters(), strict=True))
    }
    assert moved == {"actor", "critics", "target"}


@pytest.mark.parametrize("regularization", ["value_penalty", "policy"])
@pytest.mark.parametrize("name", ["focal", "focal_coupled"])
def test_coupled_gradients_reach_the_encoder_in_an_update_and_decoupled_ones_do_not(name, regularization):
    algorithm = fresh(name, metric_weight=0.0, regularization=regularization)
    before = [p.detach().clone() for p in algorithm.encoder.parameters()]
    algorithm.update(random_batch(algorithm))
    moved = any(not torch.equal(b, p) for b, p in zip(before, algorithm.encoder.parameters(), strict=True))
    assert moved == (name == "focal_coupled")


def test_the_metric_loss_reaches_the_coupled_encoder_too():
    with_metric, without = (fresh("focal_coupled", metric_weight=weight) for weight in (1.0, 0.0))
    for algorithm in (with_metric, without):
        algorithm.update(random_batch(algorithm))
    first, second = (torch.cat([p.flatten() for p in a.encoder.parameters()]) for a in (with_metric, without))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", BRAC_METHODS)
def test_targets_follow_and_get_no_gradient(name):
    algorithm = fresh(name)
    old = [p.clone() for p in algorithm.target.parameters()]
    algorithm.update(random_batch(algorithm))
    for target, before, online in zip(algorithm.target.parameters(), old, algorithm.critics.parameters(), strict=True):
        assert target.grad is None and not target.requires_grad
        torch.testing.assert_close(target, before + algorithm.config.target_rate * (online - before))


def test_behaviour_cloning_moves_the_actor_and_the_metric_loss_the_encoder(reached_by):
    algorithm = fresh("bc")
    batch, (s, a, *_) = transitions(algorithm)
    z = algorithm.embed(batch.contexts[0])
    assert reached_by(algorithm, algorithm.cloning_loss(s, a, z.detach())) == {"actor"}
