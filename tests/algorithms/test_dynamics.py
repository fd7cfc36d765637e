"""Ensembles of probabilistic models of several tasks against values worked out by hand."""

import math

import pytest
import torch

from omrlbench.algorithms.dynamics import ERROR_RATE, TaskModels

LARGE = 1000.0  # before its bounds, a log-variance beyond either


def models(tasks=2, members=2):
    torch.manual_seed(0)
    return TaskModels(tasks, members, 1, 1, (8,))


def predict(ensemble, mean, log_variance, end=0.0):
    """Every member puts out these heads whatever it is given: `mean` and `log_variance` of s' - s and of the reward."""
    last = ensemble.network[-1]
    last.weight.data.zero_()
    last.bias.data[:] = torch.tensor([*mean, *log_variance, end])


def units(ensemble, shift, scale):
    ensemble.shift[:], ensemble.scale[:] = torch.tensor(shift), torch.tensor(scale)


def column(*values):
    """One task's transitions, an observation or an action of one dimension each."""
    return torch.tensor(values)[None, :, None]


def test_loss_by_hand():
    """s' - s = 3 is (3 - 1) / 2 = 1 in units, the reward 5 is (5 - 5) / 1 = 0; predicted are 0 and 0, variance e^0.5.

    An end of probability 1/2 costs log 2, whether it comes or not.
    """
    ensemble = models(tasks=1)
    units(ensemble, [1.0, 5.0], [2.0, 1.0])
    predict(ensemble, [0.0, 0.0], [LARGE, LARGE])
    four = [torch.full((1, 4), value) for value in (5.0, 0.0)]
    loss = ensemble.loss(column(*[2.0] * 4), column(*[0.0] * 4), four[0], column(*[5.0] * 4), four[1])
    gaussian = 0.5 * ((math.exp(-0.5) + 0.5) + 0.5) / 2
    assert loss.shape == (1, 2)
    assert loss.flatten().tolist() == pytest.approx([gaussian + math.log(2)] * 2, rel=1e-3)


def test_members_learn_from_transitions_of_their_own():
    """The first member sees ends and the second none: at logit 2 they cost log(1 + e^-2) and log(1 + e^2)."""
    ensemble = models(tasks=1)
    units(ensemble, [0.0, 0.0], [1.0, 1.0])
    predict(ensemble, [0.0, 0.0], [-LARGE, -LARGE], end=2.0)
    zeros, ends = torch.zeros(1, 4), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    loss = ensemble.loss(zeros[..., None], zeros[..., None], zeros, zeros[..., None], ends)
    expected = [-5 + math.log1p(math.exp(sign * 2)) for sign in (-1, 1)]  # half the smallest log-variance
    assert loss.flatten().tolist() == pytest.approx(expected, rel=1e-4)


def test_log_variances_are_bounded():
    ensemble = models()
    _, log_variance, _ = ensemble.heads(torch.tensor([0.0, 0.0, LARGE, -LARGE, 0.0]))
    assert log_variance.tolist() == pytest.approx([0.5, -10.0], abs=1e-3)


def test_units_are_each_tasks_own_or_pooled():
    """Changes of s are 0 and 2 in the first task, and 4 in the second, where nothing varies."""
    s, s_next = torch.zeros(2, 2, 1), torch.tensor([[[0.0], [2.0]], [[4.0], [4.0]]])
    r = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
    ensemble = models()
    assert not ensemble.standardized
    ensemble.standardize(s, r, s_next, pooled=False)
    assert ensemble.standardized
    assert ensemble.shift[:, 0, 0].tolist() == [1.0, 4.0]
    assert ensemble.scale[:, 0, 0].tolist() == pytest.approx([math.sqrt(2), 1.0])
    ensemble.standardize(s, r, s_next, pooled=True)
    assert ensemble.shift[:, 0].tolist() == [[2.5, 2.0]] * 2
    assert ensemble.scale[:, 0, 0].tolist() == pytest.approx([math.sqrt((6.25 + 0.25 + 2.25 + 2.25) / 3)] * 2)


def test_samples_are_in_the_units_of_the_data():
    """Change 1 + 2 (0.5 + e^0.25), noise 1; reward 5 + 1 (-1 + 0); an end of probability 1 / (1 + e^-2)."""
    ensemble = models()
    units(ensemble, [1.0, 5.0], [2.0, 1.0])
    predict(ensemble, [0.5, -1.0], [LARGE, LARGE], end=2.0)
    s = torch.tensor([[[10.0]], [[20.0]]])
    s_next, r, end = ensemble.sample(
        torch.tensor([0, 3]), s, torch.zeros(2, 1, 1), torch.tensor([1.0, 0.0]).expand(2, 1, 2)
    )
    change = 1 + 2 * (0.5 + math.exp(0.25))
    assert s_next.flatten().tolist() == pytest.approx([10 + change, 20 + change], rel=1e-4)
    assert r.flatten().tolist() == pytest.approx([4.0, 4.0])
    assert end.flatten().tolist() == pytest.approx([1 / (1 + math.exp(-2))] * 2)


def test_elites_have_the_smallest_running_losses_of_their_task():
    ensemble = models(tasks=2, members=3)
    for _ in range(2):
        ensemble.remember(torch.tensor([[1.0, 3.0, 2.0], [9.0, 7.0, 8.0]]))
    assert ensemble.error[0, 0].item() == pytest.approx(1 - (1 - ERROR_RATE) ** 2)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([ensemble.elites(2, generator) for _ in range(50)])
    assert set(drawn[:, 0].tolist()) == {0, 2} and set(drawn[:, 1].tolist()) == {4, 5}


def test_proximal_and_outer_step_by_hand():
    """phi = 0; theta is 1 in the first task and 4 in the second, in every parameter."""
    ensemble, meta = models(), models(tasks=1)
    for parameter in meta.parameters():
        parameter.data.zero_()
    for parameter in ensemble.parameters():
        parameter.data[:2], parameter.data[2:] = 1.0, 4.0
    count = sum(parameter.numel() for parameter in meta.parameters())
    assert ensemble.distance(meta).item() == pytest.approx(count * (1 + 16))
    meta.move_towards(ensemble, 0.2)
    for parameter in meta.parameters():
        torch.testing.assert_close(parameter.data, torch.full_like(parameter, 0.2 * 2.5))


def test_every_task_starts_from_the_meta_models_member_by_member():
    ensemble, meta = models(tasks=3), models(tasks=1)
    units(meta, [1.0, 5.0], [2.0, 1.0])
    meta.network[-1].bias.data[1] = 7.0  # of the second member
    ensemble.remember(torch.ones(3, 2))
    ensemble.start_from(meta)
    for own, shared in zip(ensemble.network.parameters(), meta.network.parameters(), strict=True):
        for task in range(3):
            assert torch.equal(own[2 * task : 2 * task + 2], shared)
    assert ensemble.scale.tolist() == [[[2.0, 1.0]]] * 3 and ensemble.shift.tolist() == [[[1.0, 5.0]]] * 3
    assert ensemble.distance(meta).item() == 0 and not ensemble.error.any()


def test_models_learn_a_linear_world_and_where_it_ends():
    """s' = s + a, r = s, and an end where s > 0; after a while the model says so."""
    ensemble = models(tasks=1)
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)

    def draw(rows):
        s, a = torch.rand(2, 1, rows, 1, generator=generator) * 2 - 1
        return s, a, s.squeeze(-1), s + a, (s.squeeze(-1) > 0).float()

    s, a, r, s_next, _ = draw(200)
    ensemble.standardize(s, r, s_next, pooled=False)
    for _ in range(400):
        loss = ensemble.loss(*draw(64)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    s, a, r, s_next, ends = draw(200)
    found_next, found_r, found_end = ensemble.sample(torch.tensor([1]), s, a, torch.zeros(1, 200, 2))
    assert (found_next - s_next).abs().mean() < 0.05 and (found_r - r).abs().mean() < 0.05
    assert ((found_end > 0.5) == (ends > 0.5)).float().mean() > 0.9
