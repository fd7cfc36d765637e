"""FOCAL against values worked out by hand; the released program's values are those of its published code."""

import math
from dataclasses import replace

import pytest
import torch

from omrlbench.algorithms.algorithm import Context, Problem
from omrlbench.algorithms.focal import Focal, FocalConfig, metric_loss, released_metric_loss
from omrlbench.registry import variant_values
from omrlbench.testing import random_batch, random_context

FIELDS = FocalConfig.__dataclass_fields__
RELEASED = {key: value for key, value in Focal.presets["released-code"].items() if key in FIELDS}
PROBLEM = Problem(observation_dim=2, action_dim=2, task_dim=2, n_train_tasks=8)
SMALL = FocalConfig(latent_dim=3, encoder_width=16, width=16, meta_batch=4, batch_size=8, context_size=5)


# ---------------------------------------------------------------- metric loss


def test_metric_loss_of_two_tasks_by_hand():
    first = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    second = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    # d2 of the same task: (0.25 + 0.25) / 2 = 0.25 and (0 + 1) / 2 = 0.5, mean 0.375
    # d2 of different tasks: (1 + 0) / 2 = 0.5 and (0.25 + 0.25) / 2 = 0.25
    expected = 0.375 + (1 / 0.6 + 1 / 0.35) / 2
    assert metric_loss(first, second, beta=1.0, epsilon=0.1).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["focal", "focal_inverse", "focal_linear", "focal_square"])
def test_power_laws_repel_equally_at_distance_one_half_without_epsilon(name):
    c = replace(FocalConfig(), **variant_values(name))
    first, second = torch.zeros(2, 5), torch.full((2, 5), 0.5)
    total = metric_loss(first, second, c.metric_power, c.metric_beta, epsilon=0.0).item()
    assert total == pytest.approx(0.25 + (4.0 if c.metric_power < 0 else -4.0))


@pytest.mark.parametrize(("power", "expected"), [(-2, 1 / 0.35), (-1, 1 / 0.6), (1, -0.5), (2, -0.25)])
def test_power_laws_by_hand(power, expected):
    first, second = torch.zeros(2, 5), torch.full((2, 5), 0.5)
    alone = metric_loss(first, second, power, epsilon=0.1, attraction=False)
    assert alone.item() == pytest.approx(expected)
    assert metric_loss(first, second, power, epsilon=0.1).item() == pytest.approx(0.25 + expected)


@pytest.mark.parametrize("power", [-2, -1, 1, 2])
def test_equal_embeddings_have_finite_gradients(power):
    z = torch.zeros(3, 4, requires_grad=True)
    metric_loss(z, z, power).backward()
    assert torch.isfinite(z.grad).all()


def test_metric_loss_does_not_depend_on_the_latent_size():
    narrow = metric_loss(torch.zeros(3, 2), torch.full((3, 2), 0.7), 1.0, 0.1)
    wide = metric_loss(torch.zeros(3, 20), torch.full((3, 20), 0.7), 1.0, 0.1)
    torch.testing.assert_close(narrow, wide)


@pytest.mark.parametrize(
    ("offset", "same", "expected"),
    [(0.5, False, 2.857), (0.5, True, 0.501), (2.0, False, 0.2439), (math.sqrt(2), False, 0.4762)],
)
def test_released_metric_loss_of_one_pair(offset, same, expected):
    z = torch.stack([torch.zeros(5), torch.full((5,), offset)])
    loss = released_metric_loss(z, torch.tensor([0, 0 if same else 1]))
    assert loss.item() == pytest.approx(expected, rel=2e-3)


def test_released_weighted_loss_starts_near_one_hundred():
    config = FocalConfig(**RELEASED)
    algorithm = Focal(replace(PROBLEM, n_train_tasks=16), replace(config, meta_batch=16), seed=0)
    _, weighted, _ = algorithm.infer(random_batch(algorithm))
    assert 99.99 <= weighted.item() <= 100.0


def test_released_metric_loss_has_no_attraction_among_distinct_tasks():
    z = torch.zeros(16, 5)
    assert released_metric_loss(z, torch.arange(16)).item() == pytest.approx(10 * 120 / 120.001)


# ---------------------------------------------------------------- embedding


def test_embedding_is_the_mean_of_bounded_codes_in_any_order():
    algorithm = Focal(PROBLEM, SMALL, seed=0)
    context = random_context(PROBLEM, 4, 5)
    order = torch.randperm(5)
    columns = ("observations", "actions", "rewards", "next_observations")
    shuffled = Context(*(getattr(context, name)[:, order] for name in columns))
    z = algorithm.embed(context)
    assert z.shape == (4, 3) and z.abs().max() < 1
    torch.testing.assert_close(z, algorithm.embed(shuffled))


def test_the_probabilistic_encoder_adds_the_divergence_from_the_prior():
    """Its loss is the metric loss of two samples and a tenth of the KL divergence of one posterior per task."""
    algorithm = Focal(PROBLEM, replace(SMALL, encoder="gaussian", metric_weight=2.0), seed=0)
    _, loss, metrics = algorithm.infer(random_batch(algorithm))
    assert metrics["kl_loss"] > 0
    assert loss.item() == pytest.approx(2 * metrics["metric_loss"].item() + 0.1 * metrics["kl_loss"].item(), rel=1e-5)


def test_the_prior_acts_by_the_code_of_a_training_task():
    algorithm = Focal(PROBLEM, SMALL, seed=0)
    batch = random_batch(algorithm)
    with torch.no_grad():
        codes = algorithm.embed(batch.contexts[0])
    algorithm.update(batch)
    torch.testing.assert_close(algorithm.codes[batch.tasks], codes)
    used = algorithm.prior(20, torch.Generator().manual_seed(0)).z
    assert all((algorithm.codes == z).all(1).any() for z in used)


def test_an_empty_context_is_refused():
    context = random_context(PROBLEM, 4, 5)
    with pytest.raises(ValueError, match="n, k > 0"):
        Context(
            *(getattr(context, name)[:, :0] for name in ("observations", "actions", "rewards", "next_observations"))
        )
