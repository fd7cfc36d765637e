import pytest
import torch

from omrlbench.algorithms.algorithm import Algorithm, AlgorithmConfig, Context, Problem


class Noisy(Algorithm):
    """Holds one of each kind of state that the base class saves."""

    def __init__(self, seed=0):
        super().__init__(Problem(2, 2, 2, 8), AlgorithmConfig(), seed)
        self.network = torch.nn.Linear(2, 2)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.4)
        self.weight = torch.tensor(1.0)
        self.updates = 0

    def update(self, batch):
        loss = (self.network(torch.randn(4, 2, generator=self.generator)) * self.weight).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.weight += 0.5
        self.updates += 1
        return {"noise_loss": loss.detach()}

    def adapt(self, context):
        raise NotImplementedError


def test_state_holds_networks_optimisers_tensors_and_the_generator():
    first, second = Noisy(), Noisy(seed=7)
    for _ in range(3):
        first.update(None)
    second.load_state_dict(first.state_dict())
    assert [first.update(None) for _ in range(3)] == [second.update(None) for _ in range(3)]
    assert first.updates == second.updates == 6


def test_state_that_cannot_be_seen_is_refused():
    algorithm = Noisy()
    algorithm.more = [torch.nn.Linear(1, 1)]
    with pytest.raises(TypeError, match="Noisy.more"):
        algorithm.state_dict()


def test_state_of_a_method_with_other_parts_is_refused():
    algorithm, other = Noisy(), Noisy()
    other.ratio = 0.5
    for source, target in ((algorithm, other), (other, algorithm)):
        with pytest.raises(ValueError, match="differ in ratio"):
            target.load_state_dict(source.state_dict())


def test_saved_state_is_a_copy():
    algorithm = Noisy()
    saved = algorithm.state_dict()["weight"]
    algorithm.update(None)
    assert saved.item() == 1.0 and algorithm.weight.item() == 1.5


def test_learning_rates_are_scaled_from_what_they_were_built_with():
    algorithm = Noisy()
    algorithm.optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.2})
    for factor in (0.5, 0.25):
        algorithm.scale_learning_rates(factor)
        rates = [group["lr"] for group in algorithm.optimizer.param_groups]
        assert rates == pytest.approx([0.4 * factor, 0.2 * factor])
    resumed = Noisy()
    resumed.optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.2})
    resumed.load_state_dict(algorithm.state_dict())
    resumed.scale_learning_rates(0.1)
    assert [group["lr"] for group in resumed.optimizer.param_groups] == pytest.approx([0.04, 0.02])


@pytest.mark.parametrize("shape", [(3, 0), (0, 4), (3,)])
def test_an_empty_or_misshapen_context_is_refused(shape):
    with pytest.raises(ValueError, match="n, k > 0"):
        Context(torch.zeros(*shape, 2), torch.zeros(*shape, 2), torch.zeros(shape), torch.zeros(*shape, 2))
