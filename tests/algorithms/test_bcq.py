"""The blocks of batch-constrained Q-learning against values worked out by hand, and Contextual BCQ's gradients."""

import math

import pytest
import torch

from omrlbench.algorithms.bcq import (
    CANDIDATES,
    ActionVAE,
    best_of_candidates,
    candidates,
    perturbation,
    perturbed,
    q_loss,
    soft_minimum,
    twin_q,
)
from omrlbench.algorithms.contextual_bcq import ContextualBCQ
from omrlbench.testing import PROBLEM, SMALL, random_batch, random_context


def test_soft_minimum_by_hand():
    assert soft_minimum(torch.tensor([[1.0, 6.0], [5.0, 2.0]])).tolist() == [0.75 + 1.25, 1.5 + 1.5]


def test_the_best_of_ten_candidates_per_row():
    rows = candidates(torch.tensor([[[1.0], [2.0]]]))
    assert rows.shape == (1, 20, 1) and rows[0, :10].eq(1).all() and rows[0, 10:].eq(2).all()
    values = torch.arange(20.0)[None]
    assert best_of_candidates(values).tolist() == [[9.0, 19.0]]


def test_twin_critics_of_several_members(put_out):
    critics = torch.nn.Sequential(*perturbation(2 * 3, 4, 1, (8,)))  # any ensemble of six
    put_out(critics, *[[[value]] for value in (1.0, 2.0, 3.0, 10.0, 20.0, 30.0)])
    q = twin_q(critics, torch.randn(3, 5, 4), torch.randn(3, 5, 1))
    assert q.shape == (2, 3, 5)
    assert q[:, :, 0].tolist() == [[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]


def test_a_perturbation_moves_an_action_by_five_hundredths_at_most(put_out):
    network = perturbation(1, 3, 1, (8,))
    put_out(network, 100.0)
    actions = torch.tensor([[[0.2], [0.99]]])
    assert perturbed(network, torch.randn(1, 2, 3), actions).flatten().tolist() == pytest.approx([0.25, 1.0])


def test_vae_loss_by_hand(put_out):
    """Decoder output tanh(0) = 0; encoder mean and log-std 0.5: one action dimension, so two latent ones."""
    vae = ActionVAE(1, 3, 1, (8,))
    put_out(vae.decoder, 0.0)
    put_out(vae.encoder, 0.5)
    loss = vae.loss(torch.randn(1, 4, 3), torch.full((1, 4, 1), 0.6), torch.randn(1, 4, 2))
    kl = -0.5 * (1 + 1.0 - 0.25 - math.e)
    assert loss.item() == pytest.approx(0.36 + 0.5 * kl, rel=1e-5)


def test_members_do_not_share_anything():
    vae = ActionVAE(3, 2, 1, (8,))
    features, actions = torch.randn(3, 6, 2), torch.rand(3, 6, 1)
    vae.loss(features[1:2].expand(3, -1, -1), actions, torch.randn(3, 6, 2)).backward()
    before = vae.decoder[0].weight.grad.clone()
    vae.zero_grad()
    changed = actions.clone()
    changed[0] += 0.3
    torch.manual_seed(0)
    noise = torch.randn(3, 6, 2)
    gradients = []
    for targets in (actions, changed):
        vae.zero_grad()
        vae.loss(features, targets, noise).backward()
        gradients.append(vae.decoder[0].weight.grad.clone())
    assert before.shape == gradients[0].shape
    assert not torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1:], gradients[1][1:])


def test_q_loss_sums_critics_and_members_and_averages_the_batch():
    q = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    assert q_loss(q, torch.tensor([[0.0, 1.0]])).item() == pytest.approx((1 + 1) / 2 + (9 + 9) / 2)


def contextual_bcq():
    return ContextualBCQ(PROBLEM, ContextualBCQ.Config(**SMALL, width=16, encoder_width=16, latent_dim=3), seed=0)


def test_critic_target_by_hand(put_out):
    """Target critics at 2 and 4 give 0.75 * 2 + 0.25 * 4 = 2.5 whatever the candidate, and nothing after an end."""
    algorithm = contextual_bcq()
    put_out(algorithm.critics, 0.0)
    put_out(algorithm.critic_target, [[2.0]], [[4.0]])
    features, a, r = torch.randn(1, 6, 6), torch.rand(1, 6, 2), torch.ones(1, 6)
    for terminated, backup in ((0.0, 1 + 0.99 * 2.5), (1.0, 1.0)):
        loss = algorithm.critic_loss(features, a, r, features, torch.full((1, 6), terminated))
        assert loss.item() == pytest.approx(2 * backup**2, rel=1e-5)


def test_the_encoder_learns_from_autoencoder_and_critics(reached_by):
    algorithm = contextual_bcq()
    batch = random_batch(algorithm)

    def features():
        z = algorithm.infer(batch)
        return torch.cat([batch.observations[:, 0], z], -1)[None]

    a, r = batch.actions[None, :, 0], batch.rewards[None, :, 0]
    assert reached_by(algorithm, algorithm.vae_loss(features(), a)) == {"encoder", "vae"}
    x = features()
    assert reached_by(algorithm, algorithm.critic_loss(x, a, r, x.detach(), r * 0)) == {"encoder", "critics"}
    loss, _ = algorithm.perturbation_loss(features().detach())
    assert reached_by(algorithm, loss) >= {"perturbation"}


def test_targets_follow_slowly_and_get_no_gradient():
    algorithm = contextual_bcq()
    pairs = [(algorithm.critic_target, algorithm.critics), (algorithm.perturbation_target, algorithm.perturbation)]
    old = [[p.clone() for p in target.parameters()] for target, _ in pairs]
    algorithm.update(random_batch(algorithm))
    for (target, online), before in zip(pairs, old, strict=True):
        for t, b, o in zip(target.parameters(), before, online.parameters(), strict=True):
            assert t.grad is None
            torch.testing.assert_close(t, b + 0.005 * (o - b))


def test_acting_takes_the_candidate_of_the_largest_first_critic():
    algorithm = contextual_bcq()
    for p in algorithm.critics.parameters():
        p.data *= 3
    context = random_context(PROBLEM, 4, 5)
    policy = algorithm.adapt(context)
    observations = torch.randn(4, 3)
    chosen = policy.act(observations)
    rows = candidates(torch.cat([observations, policy.z], -1)[None])
    with torch.no_grad():
        actions = perturbed(algorithm.perturbation, rows, algorithm.vae.sample(rows, policy.noise.repeat(4, 1)[None]))
        q = twin_q(algorithm.critics, rows, actions)[0].reshape(4, CANDIDATES)
    for k in range(4):
        torch.testing.assert_close(chosen[k], actions[0].reshape(4, CANDIDATES, 2)[k, q[k].argmax()])
