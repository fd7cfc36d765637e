"""What tests of several methods ask of their networks."""

from collections.abc import Callable

import pytest
from torch import Tensor, nn, tensor

from omrlbench.algorithms.algorithm import Algorithm
from omrlbench.testing import random_batch


@pytest.fixture(scope="session")
def put_out() -> Callable[..., None]:
    """`put_out(network, *values)`: it puts out `values`, one per output, whatever it is given.

    So does every member of an ensemble; [[value]] each gives its members values of their own.
    """

    def put_out(network: nn.Sequential, *values: float | list[list[float]]) -> None:
        *_, last = [layer for layer in network if not isinstance(layer, nn.ReLU)]
        last.weight.data.zero_()
        last.bias.data[:] = tensor(values)

    return put_out


@pytest.fixture(scope="session")
def reached_by() -> Callable[[Algorithm, Tensor], set[str]]:
    """`reached_by(algorithm, loss)`: the names of the modules that get a gradient from `loss`."""

    def reached_by(algorithm: Algorithm, loss: Tensor) -> set[str]:
        for module in modules(algorithm).values():
            module.zero_grad()
        loss.backward()
        return {
            name
            for name, module in modules(algorithm).items()
            if any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
        }

    return reached_by


@pytest.fixture(scope="session")
def moved_by() -> Callable[[Algorithm, str], set[str]]:
    """`moved_by(algorithm, stage)`: the names of the modules that one update of `stage` changes."""

    def moved_by(algorithm: Algorithm, stage: str) -> set[str]:
        algorithm.stage = stage
        before = {name: [p.detach().clone() for p in each.parameters()] for name, each in modules(algorithm).items()}
        algorithm.update(random_batch(algorithm))
        return {
            name
            for name, module in modules(algorithm).items()
            if any(not p.equal(b) for b, p in zip(before[name], module.parameters(), strict=True))
        }

    return moved_by


def modules(algorithm: Algorithm) -> dict[str, nn.Module]:
    return {name: value for name, value in vars(algorithm).items() if isinstance(value, nn.Module)}
