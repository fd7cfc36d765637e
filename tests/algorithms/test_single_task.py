"""The methods that learn in each task by itself: losses by hand, what each moves, and that tasks share nothing."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from omrlbench.algorithms.bcq import PERTURBATION, twin_q
from omrlbench.algorithms.divergences import dual_kl, gradient_penalty, log_softplus
from omrlbench.algorithms.networks import frozen, mlp
from omrlbench.algorithms.single_task_bcq import SingleTaskBCQ
from omrlbench.algorithms.single_task_brac import SingleTaskBRAC
from omrlbench.algorithms.single_task_iql import SingleTaskIQL
from omrlbench.algorithms.single_task_td3_bc import SingleTaskTD3BC
from omrlbench.testing import EVALUATED, PROBLEM, SMALL, random_batch, random_context

OWN = replace(PROBLEM, evaluated_tasks=EVALUATED)
METHODS = [SingleTaskBCQ, SingleTaskBRAC, SingleTaskTD3BC, SingleTaskIQL]
N, B = len(EVALUATED), SMALL["batch_size"]


def fresh(method, **changes):
    return method(OWN, method.Config(**SMALL | {"task_width": 16} | changes), seed=0)


def transitions(reward=3.0, terminated=0.0):
    """s, a, r, s', terminated of B transitions per task; actions are 0.5."""
    s, s_next = torch.randn(2, N, B, OWN.observation_dim)
    a = torch.full((N, B, OWN.action_dim), 0.5)
    return s, a, torch.full((N, B), reward), s_next, torch.full((N, B), terminated)


# ---------------------------------------------------------------- what all share


@pytest.mark.parametrize("method", METHODS)
def test_a_task_learns_as_if_it_were_alone(method):
    """Other data in the other tasks leave a task's networks as they are, to the bit."""
    first, second = fresh(method), fresh(method)
    batch = random_batch(first)
    one = int((batch.tasks == 2).nonzero())
    others = torch.arange(N) != one
    actions, rewards = batch.actions.clone(), batch.rewards.clone()
    actions[others], rewards[others] = -actions[others], rewards[others] + 5
    for _ in range(2):
        first.update(batch)
        second.update(replace(batch, actions=actions, rewards=rewards))
    changed = False
    for (name, module), other in zip(vars(first).items(), vars(second).values(), strict=True):
        if isinstance(module, nn.Module):
            for p, q in zip(module.parameters(), other.parameters(), strict=True):
                mine = slice(2, None, N)  # of the critics, two members
                assert torch.equal(p[mine], q[mine]), name
                changed |= not torch.equal(p, q)
    assert changed


@pytest.mark.parametrize("method", METHODS)
def test_batches_come_in_any_order_of_tasks(method):
    first, second = fresh(method), fresh(method)
    batch = random_batch(first)
    order = torch.tensor([3, 1, 4, 0, 2])
    columns = ("tasks", "observations", "actions", "rewards", "next_observations", "terminated")
    first.update(batch)
    second.update(replace(batch, **{name: getattr(batch, name)[order] for name in columns}))
    for p, q in zip(first.critics.parameters(), second.critics.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("method", METHODS)
def test_each_row_acts_by_the_networks_of_its_task(method):
    algorithm = fresh(method)
    tasks = torch.tensor([8, 3, 8, 1, 3, 8])
    context = replace(random_context(OWN, 6, 4), task_ids=tasks)
    observations = torch.randn(6, OWN.observation_dim)
    actions = algorithm.adapt(context).act(observations)
    for row, task in enumerate(tasks.tolist()):
        stacked = observations[row].expand(N, 1, -1)
        expected = algorithm.act(stacked)[EVALUATED.index(task), 0]
        torch.testing.assert_close(actions[row], expected, atol=1e-6, rtol=1e-5)


def test_a_task_that_was_not_learned_from_is_refused():
    context = replace(random_context(OWN, 2, 4), task_ids=torch.tensor([3, 2]))
    with pytest.raises(ValueError, match=r"tasks whose datasets were learned from: \[1, 3, 4, 6, 8\]"):
        fresh(SingleTaskIQL).adapt(context)


@pytest.mark.parametrize("method", METHODS)
def test_targets_follow_the_critics_and_get_no_gradient(method):
    algorithm = fresh(method)
    old = [p.clone() for p in algorithm.critic_target.parameters()]
    algorithm.update(random_batch(algorithm))
    if method is SingleTaskTD3BC:  # targets wait for the actor's turn
        assert all(torch.equal(p, q) for p, q in zip(algorithm.critic_target.parameters(), old, strict=True))
        algorithm.update(random_batch(algorithm))
    targets = zip(algorithm.critic_target.parameters(), old, algorithm.critics.parameters(), strict=True)
    for target, before, online in targets:
        assert not target.requires_grad
        torch.testing.assert_close(target, before + 0.005 * (online - before))


@pytest.mark.parametrize("method", [SingleTaskBCQ, SingleTaskTD3BC])
def test_critics_learn_reward_plus_discounted_target_value(method, put_out):
    algorithm = fresh(method, discount=0.9)
    put_out(algorithm.critics, 0.0), put_out(algorithm.critic_target, 2.0)
    assert algorithm.critic_loss(*transitions()).item() == pytest.approx(N * 2 * (3 + 0.9 * 2) ** 2)
    assert algorithm.critic_loss(*transitions(terminated=1.0)).item() == pytest.approx(N * 2 * 3**2)


# ---------------------------------------------------------------- BCQ


def test_bcq_losses_move_their_own_networks(reached_by):
    algorithm = fresh(SingleTaskBCQ)
    s, a, *_ = columns = transitions()
    assert reached_by(algorithm, algorithm.vae_loss(s, a)) == {"vae"}
    assert reached_by(algorithm, algorithm.critic_loss(*columns)) == {"critics"}
    with frozen(algorithm.critics):
        assert reached_by(algorithm, algorithm.perturbation_loss(s)[0]) == {"perturbation"}


def test_bcq_perturbs_actions_towards_larger_values(put_out):
    """The critics say 2: minus 2 for each task; and of a critic that is the first coordinate, that of the actions."""
    algorithm = fresh(SingleTaskBCQ)
    s, *_ = transitions()
    put_out(algorithm.critics, 2.0)
    loss, q = algorithm.perturbation_loss(s)
    assert loss.item() == pytest.approx(-2 * N) and (q == 2).all()
    algorithm.critics = FirstAction(OWN.observation_dim)
    loss, q = algorithm.perturbation_loss(s)
    torch.testing.assert_close(loss, -q.mean(1).sum())


@pytest.mark.parametrize("method, name", [(SingleTaskBCQ, "perturbation"), (SingleTaskTD3BC, "actor")])
def test_the_target_of_what_acts_follows_too(method, name):
    algorithm = fresh(method, actor_interval=1) if method is SingleTaskTD3BC else fresh(method)
    target, online = getattr(algorithm, f"{name}_target"), getattr(algorithm, name)
    old = [p.clone() for p in target.parameters()]
    algorithm.update(random_batch(algorithm))
    for p, before, learned in zip(target.parameters(), old, online.parameters(), strict=True):
        assert not p.requires_grad
        torch.testing.assert_close(p, before + 0.005 * (learned - before))
    assert any(not torch.equal(p, before) for p, before in zip(target.parameters(), old, strict=True))


def test_bcq_acts_by_the_best_candidate(put_out):
    """Decoded actions and their changes are chosen by the first critic, which is the first action coordinate here."""
    algorithm = fresh(SingleTaskBCQ)
    algorithm.critics = FirstAction(OWN.observation_dim)
    put_out(algorithm.perturbation, 100.0, -100.0)
    observations = torch.randn(N, 3, OWN.observation_dim)
    decoded = torch.stack(
        [algorithm.vae.sample(observations, latent.expand(N, 3, -1)) for latent in algorithm.latents]
    )  # (candidates, N, 3, action_dim)
    best = decoded[..., 0].amax(0) + PERTURBATION
    torch.testing.assert_close(algorithm.act(observations)[..., 0], best.clamp(-1, 1))


class FirstAction(nn.Module):
    """Both critics of every task put out the action's first coordinate."""

    def __init__(self, observation_dim: int):
        super().__init__()
        self.place = observation_dim

    def forward(self, inputs):
        return inputs[..., self.place : self.place + 1]


# ---------------------------------------------------------------- TD3+BC


def test_td3_bc_losses_move_their_own_networks(reached_by):
    algorithm = fresh(SingleTaskTD3BC)
    s, a, *_ = columns = transitions()
    assert reached_by(algorithm, algorithm.critic_loss(*columns)) == {"critics"}
    with frozen(algorithm.critics):
        assert reached_by(algorithm, algorithm.actor_loss(s, a)[0]) == {"actor"}


def test_td3_bc_actor_loss_by_hand(put_out):
    """Actions 0 beside 0.5: 0.25. The critic says -4 everywhere, so lambda is 2.5 / 4 and lambda Q is -2.5."""
    algorithm = fresh(SingleTaskTD3BC)
    put_out(algorithm.actor, 0.0, 0.0), put_out(algorithm.critics, -4.0)
    s, a, *_ = transitions()
    loss, q = algorithm.actor_loss(s, a)
    assert loss.item() == pytest.approx(N * (0.25 + 2.5)) and (q == -4).all()


def test_td3_bc_scales_the_value_of_each_task_by_itself():
    algorithm = fresh(SingleTaskTD3BC)
    s, a, *_ = transitions()
    algorithm.critics[-1].weight.data[2] *= 1000  # of the third task, both critics would have members 2 and 7
    algorithm.critics[-1].bias.data[2] *= 1000
    q = twin_q(algorithm.critics, s, algorithm.actor(s).tanh())[0]
    imitation = (algorithm.actor(s).tanh() - a).square().mean((1, 2))
    expected = (imitation - 2.5 * q.mean(1) / q.detach().abs().mean(1)).sum()  # no gradient through the scale
    found, _ = algorithm.actor_loss(s, a)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(x, list(algorithm.actor.parameters())) for x in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_td3_bc_smooths_the_target_policy_by_clipped_noise(put_out):
    """A target critic that is the first action coordinate says where the target policy's actions are."""
    algorithm = fresh(SingleTaskTD3BC, target_noise=10.0, discount=1.0)
    put_out(algorithm.actor_target, 0.0, 0.0), put_out(algorithm.critics, 0.0)
    algorithm.critic_target = FirstAction(OWN.observation_dim)
    s, a, r, s_next, terminated = transitions(reward=0.0)
    columns = s, a, r, s_next.expand(100, -1, -1, -1).transpose(0, 1).flatten(1, 2), terminated
    loss = algorithm.critic_loss(*(c if c is columns[3] else c.repeat_interleave(100, 1) for c in columns))
    assert 2 * N * 0.2 < loss.item() <= 2 * N * 0.25 + 1e-4  # almost all noise is clipped to 0.5 in size


def test_td3_bc_keeps_the_target_policy_s_actions_possible(put_out):
    """From 1 noise of 0.5 leads to 0.5 or nowhere: mean squares near (1 + 1/4) / 2, and with 1.5 twice that."""
    algorithm = fresh(SingleTaskTD3BC, target_noise=10.0, discount=1.0)
    put_out(algorithm.actor_target, 10.0, 10.0), put_out(algorithm.critics, 0.0)
    algorithm.critic_target = FirstAction(OWN.observation_dim)
    s, a, r, s_next, terminated = (column.repeat_interleave(100, 1) for column in transitions(reward=0.0))
    loss = algorithm.critic_loss(s, a, r, s_next, terminated)
    assert loss.item() == pytest.approx(2 * N * 0.625, rel=0.1)


def test_td3_bc_acts_every_other_update_and_without_a_value_clones():
    algorithm = fresh(SingleTaskTD3BC, alpha=0.0, task_learning_rate=1e-2)
    batch = random_batch(algorithm)
    batch = replace(batch, actions=torch.full_like(batch.actions, 0.4))
    before = [p.clone() for p in algorithm.actor.parameters()]
    assert "actor_loss" not in algorithm.update(batch)
    assert all(torch.equal(p, q) for p, q in zip(before, algorithm.actor.parameters(), strict=True))
    for _ in range(301):
        metrics = algorithm.update(batch)
    assert metrics["actor_loss"] < 1e-3
    order = batch.tasks.argsort()
    torch.testing.assert_close(algorithm.act(batch.observations[order]), batch.actions[order], atol=0.1, rtol=0)


# ---------------------------------------------------------------- IQL


def test_iql_losses_move_their_own_networks(reached_by):
    algorithm = fresh(SingleTaskIQL)
    s, a, *_ = columns = transitions()
    q = torch.randn(N, B)
    assert reached_by(algorithm, algorithm.value_loss(s, q)) == {"value"}
    assert reached_by(algorithm, algorithm.actor_loss(s, a, q)[0]) == {"actor"}
    assert reached_by(algorithm, algorithm.critic_loss(*columns)) == {"critics"}


def test_iql_value_is_an_expectile(put_out):
    """V = 1 beside values 3 and 0: 0.7 * 4 and 0.3 * 1, in equal parts."""
    algorithm = fresh(SingleTaskIQL)
    put_out(algorithm.value, 1.0)
    q = torch.tensor([3.0, 0.0]).repeat(N, B // 2)
    assert algorithm.value_loss(torch.randn(N, B, OWN.observation_dim), q).item() == pytest.approx(N * (2.8 + 0.3) / 2)


def test_iql_critics_learn_from_the_value_of_the_next_state(put_out):
    algorithm = fresh(SingleTaskIQL, discount=0.9)
    put_out(algorithm.critics, 0.0), put_out(algorithm.value, 2.0)
    assert algorithm.critic_loss(*transitions()).item() == pytest.approx(N * 2 * (3 + 0.9 * 2) ** 2)
    assert algorithm.critic_loss(*transitions(terminated=1.0)).item() == pytest.approx(N * 2 * 3**2)


def test_iql_weighs_logged_actions_by_their_advantage_up_to_100(put_out):
    """Advantages log 2 / 3 and 10 at beta 3 weigh 2 and 100; both actions are 0.5 from the mean, at deviation 1."""
    algorithm = fresh(SingleTaskIQL)
    put_out(algorithm.value, 1.0), put_out(algorithm.actor.network, 0.0, 0.0)
    s, a, *_ = transitions()
    q = 1 + torch.tensor([math.log(2) / 3, 10.0]).repeat(N, B // 2)
    loss, advantage = algorithm.actor_loss(s, a, q)
    density = -0.5 * 0.25 * 2 - math.log(2 * math.pi)  # of two dimensions
    assert loss.item() == pytest.approx(-N * (2 + 100) / 2 * density, rel=1e-5)
    torch.testing.assert_close(advantage, q - 1)


# ---------------------------------------------------------------- BRAC


def test_brac_losses_move_their_own_networks(reached_by):
    algorithm = fresh(SingleTaskBRAC)
    s, a, *_ = columns = transitions()
    assert reached_by(algorithm, algorithm.discriminator_loss(s, a)[0]) == {"discriminator"}
    assert reached_by(algorithm, algorithm.critic_loss(*columns)) == {"critics"}
    with frozen(algorithm.critics, algorithm.discriminator):
        assert reached_by(algorithm, algorithm.actor_loss(s)[0]) == {"actor"}


def test_brac_critic_and_actor_losses_by_hand(put_out):
    s, *_ = columns = transitions()
    penalty = 1.5 * log_softplus(torch.tensor(0.7)).item()
    for regularization, value in (("policy", 2), ("both", 2 - penalty)):
        algorithm = fresh(
            SingleTaskBRAC, discount=0.9, entropy_temperature=0.0, alpha=1.5, regularization=regularization
        )
        put_out(algorithm.critics, 2.0), put_out(algorithm.critic_target, 2.0), put_out(algorithm.discriminator, 0.7)
        assert algorithm.critic_loss(*columns).item() == pytest.approx(N * 2 * (3 + 0.9 * value - 2) ** 2)
        assert algorithm.actor_loss(s)[0].item() == pytest.approx(N * (-2 + penalty), rel=1e-5)


def test_brac_rewards_entropy(put_out):
    """Actions of N(0, 1) before tanh, at 0.7 of the standard deviation, cost half their log-density."""
    algorithm = fresh(SingleTaskBRAC, discount=0.9, entropy_temperature=0.5, alpha=0.0, regularization="policy")
    put_out(algorithm.critics, 2.0), put_out(algorithm.critic_target, 2.0), put_out(algorithm.actor, *[0.0] * 4)
    algorithm.noise = lambda *shape: torch.full(shape, 0.7)
    s, *_ = columns = transitions()
    log_pi = 2 * (-0.5 * math.log(2 * math.pi) - 0.5 * 0.7**2 - math.log(1 - math.tanh(0.7) ** 2))
    assert algorithm.actor_loss(s)[0].item() == pytest.approx(N * (0.5 * log_pi - 2), rel=1e-4)
    backup = 3 + 0.9 * (2 - 0.5 * log_pi)
    assert algorithm.critic_loss(*columns).item() == pytest.approx(N * 2 * (backup - 2) ** 2, rel=1e-4)


def test_brac_discriminator_loss_by_hand(put_out):
    """A discriminator of constant output 0 has no slope: the divergence is log log 2 - log 2 + 1, without penalty."""
    algorithm = fresh(SingleTaskBRAC)
    put_out(algorithm.discriminator, 0.0)
    s, a, *_ = transitions()
    loss, divergence = algorithm.discriminator_loss(s, a)
    assert divergence.item() == pytest.approx(math.log(math.log(2)) - math.log(2) + 1, rel=1e-5)
    assert loss.item() == pytest.approx(-N * divergence.item(), rel=1e-5)


def test_brac_measures_each_task_as_one_discriminator_alone_would():
    algorithm = fresh(SingleTaskBRAC)
    algorithm.discriminator[0].weight.data *= 50  # steep enough to be penalised
    s, a, *_ = transitions()
    a_pi, z = torch.rand_like(a), s[..., :0]
    single = [member(algorithm.discriminator, k) for k in range(N)]
    alone = torch.stack([dual_kl(single[k], s[k], a_pi[k], a[k], z[k]) for k in range(N)])
    torch.testing.assert_close(dual_kl(algorithm.discriminator, s, a_pi, a, z), alone)
    penalties = torch.stack([gradient_penalty(single[k], s[k], a[k], z[k]) for k in range(N)])
    assert (penalties > 0).all()
    torch.testing.assert_close(gradient_penalty(algorithm.discriminator, s, a, z), penalties.mean())


def member(ensemble, k):
    """The k-th network of `ensemble` as one of its own."""
    widths = [ensemble[0].weight.shape[1], *(layer.weight.shape[2] for layer in ensemble if hasattr(layer, "weight"))]
    network = mlp(widths[0], widths[1:-1], widths[-1])
    for layer, source in zip(network, ensemble, strict=True):
        if isinstance(layer, nn.Linear):
            layer.weight.data, layer.bias.data = source.weight[k].T.clone(), source.bias[k, 0].clone()
    return network
