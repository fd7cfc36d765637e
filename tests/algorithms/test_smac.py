"""Both phases of SMAC against values worked out by hand."""

from dataclasses import replace

import pytest
import torch

from omrlbench.algorithms.algorithm import LAST_STAGE
from omrlbench.algorithms.networks import squashed_log_density
from omrlbench.algorithms.smac import SMAC, SMACOffline, SMACOnlineConfig, decoded_rewards
from omrlbench.config import resolve
from omrlbench.suite import suite_cells
from omrlbench.testing import PROBLEM, SMALL, random_batch, random_context

VALUES = SMALL | {"width": 16, "encoder_width": 16, "latent_dim": 3}


@pytest.fixture
def algorithm():
    return SMACOffline(PROBLEM, SMACOffline.Config(**VALUES), seed=0)


@pytest.fixture
def online():
    """In its second phase."""
    algorithm = SMAC(PROBLEM, SMAC.Config(**VALUES), seed=0)
    algorithm.stage = LAST_STAGE
    return algorithm


def constant(network, *values):
    """The network says `values` whatever it is given."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network[-1].bias.copy_(torch.tensor(values).reshape(network[-1].bias.shape))


def test_logged_actions_count_by_the_softmax_of_their_advantages(algorithm, monkeypatch):
    """Advantages 0 and 20 log 3 at temperature 20 weigh a quarter and three quarters."""
    batch = random_batch(algorithm)
    s, a = batch.observations[0, :2], batch.actions[0, :2]
    z = torch.zeros(2, 3)
    logged = torch.tensor([1.0, 1.0 + 20 * torch.tensor(3.0).log()])

    def q_values(critics, states, actions, codes):
        return torch.stack([logged, logged + 5]) if actions is a else torch.ones(2, 2)

    monkeypatch.setattr("omrlbench.algorithms.smac.q_values", q_values)
    loss, parts = algorithm.actor_loss(s, a, z, algorithm.alpha)
    density = squashed_log_density(*algorithm.heads(s, z), a)
    torch.testing.assert_close(loss, -(0.25 * density[0] + 0.75 * density[1]))
    torch.testing.assert_close(parts["advantage"], logged - 1)


def test_the_encoder_learns_from_the_decoders_error_and_the_prior(algorithm):
    """A decoder that says 2 where rewards are 0 and 1 is wrong by (4 + 1) / 2."""
    constant(algorithm.decoder, 2.0)
    batch = random_batch(algorithm)
    rewards = torch.arange(batch.rewards.numel()).reshape(batch.rewards.shape) % 2.0
    _, loss, metrics = algorithm.infer(replace(batch, rewards=rewards))
    assert metrics["decoder_loss"].item() == pytest.approx(2.5)
    mean, variance = algorithm.posterior(batch.contexts[0])
    kl = 0.5 * (variance + mean.square() - 1 - variance.log()).sum()
    torch.testing.assert_close(loss, 2.5 + 0.1 * kl)


def test_decoded_rewards_are_those_of_each_tasks_own_embedding(algorithm):
    batch = random_batch(algorithm)
    z = torch.randn(len(batch.tasks), 3)
    together = decoded_rewards(algorithm.decoder, batch.observations, batch.actions, z)
    one = algorithm.decoder(torch.cat([batch.observations[1, :1], batch.actions[1, :1], z[1:2]], -1))
    assert together.shape == batch.rewards.shape
    torch.testing.assert_close(together[1, 0], one[0, 0])


def test_an_update_learns_to_tell_rewards(algorithm):
    batch = random_batch(algorithm)
    first = algorithm.update(batch)["decoder_loss"]
    for _ in range(200):
        last = algorithm.update(batch)["decoder_loss"]
    assert last < 0.7 * first


def test_the_first_phase_is_that_of_the_offline_method_to_the_last_bit(algorithm):
    both = SMAC(PROBLEM, SMAC.Config(**VALUES), seed=0)
    both.stage = "offline"
    for seed in range(3):
        algorithm.update(random_batch(algorithm, seed))
        both.update(random_batch(both, seed))
    for name in ("encoder", "decoder", "actor", "critics", "target"):
        ours, theirs = (getattr(method, name).parameters() for method in (both, algorithm))
        assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True)), name


@pytest.mark.parametrize("suite, columns", [("online", 3), ("online_mixed", 1)])
def test_the_suites_compare_policies_before_and_after_equal_first_phases(suite, columns):
    cells = {(config.env, config.level, config.algo): config for _, config in suite_cells(suite)}
    found = {key[:2] for key in cells if key[2] == "smac"}
    assert len(found) == columns
    for column in found:
        before, after = (cells[*column, algo] for algo in ("smac_offline", "smac"))
        assert after.algorithm.offline_steps == before.training.steps
        shared = vars(before.algorithm).keys()
        assert {key: getattr(after.algorithm, key) for key in shared} == vars(before.algorithm)
        assert before.training == after.training


def test_the_controls_have_as_many_updates_as_the_methods_that_interact():
    for _, config in suite_cells("online_control"):
        if config.algo == "smac_offline":
            smac = resolve(config.env, "smac", level=config.level)
            assert config.training == replace(smac.training, steps=smac.algorithm.offline_steps + smac.training.steps)
            assert vars(config.algorithm).items() <= vars(smac.algorithm).items()
        else:
            pearl = resolve(config.env, "pearl").training
            assert config.algo == "batch_pearl" and config.training.steps == pearl.steps
            assert config.training.eval_interval == pearl.eval_interval


def test_the_contexts_have_a_decoder_that_learns_their_reward_and_leaves_the_encoder_alone(online):
    """Decoders that say 2 and 3, where the learner's rewards are 0 and those of contexts 1."""
    online.stage = "offline"
    constant(online.decoder, 2.0)
    constant(online.context_decoder, 3.0)
    batch = random_batch(online)
    contexts = tuple(replace(c, rewards=torch.ones_like(c.rewards)) for c in batch.contexts)
    _, loss, metrics = online.infer(replace(batch, rewards=torch.zeros_like(batch.rewards), contexts=contexts))
    assert metrics["decoder_loss"].item() == pytest.approx(4.0)
    assert metrics["context_decoder_loss"].item() == pytest.approx(4.0)
    torch.testing.assert_close(loss, 8.0 + 0.1 * metrics["kl_loss"])


def test_labels_are_what_the_decoders_say_given_a_sample_of_the_logged_context_s_posterior(online):
    context = random_context(PROBLEM, tasks=4, size=5)
    s, a = torch.randn(4, 6, 3), torch.rand(4, 6, 2)
    labels = online.label(context, s, a, torch.Generator().manual_seed(3))
    mean, variance = online.posterior(context)
    z = mean + variance.sqrt() * torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    for label, decoder in zip(labels, (online.decoder, online.context_decoder), strict=True):
        torch.testing.assert_close(label, decoded_rewards(decoder, s, a, z))


def test_the_second_phase_infers_from_collected_and_from_logged_contexts_alike(online):
    """A posterior that is narrow and has the mean of the context's rewards, 0 if collected and 10 if logged."""
    batch = random_batch(online)
    collected, logged = (
        replace(context, rewards=torch.full((1000, 1), value))
        for context, value in zip([random_context(PROBLEM, 1000, 1)] * 2, (0.0, 10.0), strict=True)
    )

    def posterior(context):
        return context.rewards.expand(-1, 3), torch.full((1000, 3), 1e-8)

    online.posterior = posterior
    z, loss, metrics = online.infer(replace(batch, contexts=(collected, logged)))
    logs = z[:, 0] > 5
    torch.testing.assert_close(z, 10.0 * logs[:, None].expand(-1, 3), atol=1e-2, rtol=0)
    assert 400 < logs.sum() < 600 and loss == 0.0 and metrics == {}


@pytest.mark.parametrize("stage", ["offline", LAST_STAGE])
def test_z_is_a_sample_of_the_posterior_in_both_phases(online, stage):
    """A posterior N(3, 4) in a thousand tasks; the mean alone would have no spread."""
    online.stage = stage
    batch = random_batch(online)
    context = random_context(PROBLEM, 1000, 1)
    parts = {
        name: torch.zeros(1000, *getattr(batch, name).shape[1:])
        for name in ("observations", "actions", "rewards", "next_observations", "terminated")
    }
    online.posterior = lambda context: (torch.full((1000, 3), 3.0), torch.full((1000, 3), 4.0))
    z, *_ = online.infer(replace(batch, contexts=(context, context), **parts))
    assert z.mean().item() == pytest.approx(3, abs=0.2) and z.std().item() == pytest.approx(2, abs=0.2)


def test_the_second_phase_adds_the_value_of_the_policy_s_own_actions(online, monkeypatch):
    """Critics that say 7 and 3 add -3 times the weight to what phase 1 asks of the actor."""
    batch = random_batch(online)
    s, a, z = batch.observations[0], batch.actions[0], torch.zeros(len(batch.actions[0]), 3)
    monkeypatch.setattr(
        "omrlbench.algorithms.smac.q_values", lambda critics, s, a, z: torch.tensor([[7.0], [3.0]]).expand(2, len(s))
    )
    density = squashed_log_density(*online.heads(s, z), a)
    loss, _ = online.actor_loss(s, a, z, online.alpha)
    torch.testing.assert_close(loss, -density.mean() - 5.0 * 3.0)
    online.stage = "offline"
    torch.testing.assert_close(online.actor_loss(s, a, z, online.alpha)[0], -density.mean())


def test_the_second_phase_leads_the_policy_s_own_actions_to_larger_values(online, monkeypatch):
    """Where Q is the sum of an action, by 5 times the gradient of that of the actions that are sampled."""
    batch = random_batch(online)
    s, a, z = batch.observations[0], batch.actions[0], torch.zeros(len(batch.actions[0]), 3)
    monkeypatch.setattr(
        "omrlbench.algorithms.smac.q_values", lambda critics, s, a, z: torch.stack([a.sum(-1), a.sum(-1) + 1])
    )

    def gradient(value):
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(online.actor.parameters()))])

    def loss(weight):
        online.config = replace(online.config, q_weight=weight)
        online.generator.manual_seed(0)
        return online.actor_loss(s, a, z, online.alpha)[0]

    difference = gradient(loss(5.0)) - gradient(loss(0.0))
    online.generator.manual_seed(0)
    online.sample_action(*online.heads(s, z))  # that of the advantages
    own, _ = online.sample_action(*online.heads(s, z))
    torch.testing.assert_close(difference, -5 * gradient(own.sum(-1).mean()))
    assert difference.abs().max() > 1e-3


def test_a_batch_has_room_for_collected_and_for_logged_transitions():
    assert SMACOnlineConfig(batch_size=2)
    with pytest.raises(ValueError, match="^batch_size must be at least 2, half of them logged, not 1$"):
        SMACOnlineConfig(batch_size=1)


def test_weights_stand_beside_rewards_as_in_the_released_program():
    values = SMACOnlineConfig()
    assert values.q_weight == 5 * 1 and values.advantage_temperature == 100 / 5
