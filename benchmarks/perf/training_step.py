"""How long FOCAL's update takes beside its matrix products alone: `python -m omrlbench.perf.training_step`.

docs/performance.md says what is compared.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from omrlbench.algorithms.algorithm import Algorithm
from omrlbench.config import resolve
from omrlbench.data.dataset import MetaBatchSampler, MultiTaskDataset
from omrlbench.perf.turns import Contender, conditions, take_turns
from omrlbench.process import deterministic
from omrlbench.registry import meta_env
from omrlbench.training import make_algorithm, make_sampler

STORED = Path(__file__).with_suffix(".json")
TRANSITIONS = 10_000  # per task, as in the suite's largest datasets
PRODUCTS = {"mm": (0, 1), "addmm": (1, 2), "bmm": (0, 1), "baddbmm": (1, 2)}  # aten operation -> the two factors
SAMPLING_TARGET = 0.05  # of the update


@dataclass(frozen=True)
class Shape:
    """Sizes of an update, how many times its products' time it may take, and how many a turn has."""

    env: str
    width: int
    meta_batch: int
    batch_size: int
    target: float
    updates: int

    @property
    def overrides(self) -> list[str]:
        sizes = {"width": self.width, "encoder_width": self.width, "batch_size": self.batch_size}
        sizes |= {"meta_batch": self.meta_batch, "context_size": 64}
        return [f"{name}={size}" for name, size in sizes.items()]


SHAPES = {
    "tiny": Shape("point_robot", width=64, meta_batch=8, batch_size=64, target=3.0, updates=20),
    "lite": Shape("cheetah_vel", width=128, meta_batch=8, batch_size=64, target=2.0, updates=10),
    "paper": Shape("cheetah_vel", width=256, meta_batch=16, batch_size=256, target=2.0, updates=1),
}


@click.command(help=__doc__)
@click.option("--rounds", default=9, show_default=True, help="How often everything takes its turn.")
@click.option("--store", is_flag=True, help=f"Keep the ratios in {STORED.name}, which a test compares with.")
def main(rounds: int, store: bool) -> None:
    print(f"{conditions(['python', 'torch', 'numpy'])}\n")
    print(
        "| shape | update | its products alone | update / products | target | drawing a meta-batch / update | target |"
    )
    print("|---|---|---|---|---|---|---|")
    ratios = {}
    for name, shape in SHAPES.items():
        seconds = measure(shape, rounds)
        update, products, _ = 1e3 * np.median(seconds, 0)
        ratio, share = relative(seconds)
        ratios[name] = {"update": round(ratio, 2), "drawing": round(share, 4)}
        cells = [name, f"{update:.1f} ms", f"{products:.1f} ms", f"{ratio:.2f}", f"{shape.target:g}"]
        print(f"| {' | '.join([*cells, f'{share:.1%}', f'{SAMPLING_TARGET:.0%}'])} |", flush=True)
    if store:
        STORED.write_text(json.dumps(ratios, indent=1) + "\n")


def relative(seconds: np.ndarray) -> tuple[float, float]:
    """The median over rounds of the update over its products, and of drawing over the update."""
    update, products, drawing = seconds.T
    return float(np.median(update / products)), float(np.median(drawing / update))


def measure(shape: Shape, rounds: int) -> np.ndarray:
    """Seconds of processor time (rounds, 3) of an update, of its products alone, and of drawing its meta-batch."""
    with deterministic():
        algorithm, sampler = learner(shape)
        batch = sampler.sample()
        multiply = products_of(lambda: algorithm.update(batch))
        work = {"update": lambda: algorithm.update(batch), "products": multiply, "drawing": sampler.sample}
        contenders = [Contender(name, repeated(part, shape.updates)) for name, part in work.items()]
        return 1 / take_turns(contenders, rounds, time.process_time)


def learner(shape: Shape) -> tuple[Algorithm, MetaBatchSampler]:
    """FOCAL, untrained, and what draws its meta-batches from random transitions."""
    config = resolve(shape.env, "focal", overrides=shape.overrides)
    dataset = random_dataset(shape.env)
    algorithm = make_algorithm(config, dataset)
    return algorithm, make_sampler(config, dataset, algorithm, np.random.default_rng(0))


def random_dataset(env: str) -> MultiTaskDataset:
    spec = meta_env(env)
    single = spec.make(0)
    (observation_dim,), (action_dim,) = single.observation_space.shape, single.action_space.shape
    tasks = len(spec.tasks)
    rows, g = tasks * TRANSITIONS, torch.Generator().manual_seed(0)
    last = torch.arange(rows) % spec.horizon == spec.horizon - 1
    return MultiTaskDataset(
        spec=spec,
        level="random",
        observations=torch.rand(rows, observation_dim, generator=g),
        actions=torch.rand(rows, action_dim, generator=g) * 2 - 1,
        rewards={kind: -torch.rand(rows, generator=g) for kind in spec.rewards},
        next_observations=torch.rand(rows, observation_dim, generator=g),
        terminated=torch.zeros(rows, dtype=torch.bool),
        truncated=last,
        task_start=np.arange(tasks) * TRANSITIONS,
        task_size=np.full(tasks, TRANSITIONS),
        metadata={},
    )


class Products(TorchDispatchMode):
    """Inside, `found` counts the shapes and strides of the factors of every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple] = Counter()

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        factors = PRODUCTS.get(operation.overloadpacket.__name__)
        if factors:
            self.found[tuple((tuple(arguments[k].shape), arguments[k].stride()) for k in factors)] += 1
        return operation(*arguments, **(keywords or {}))


def products_of(work: Callable[[], object]) -> Callable[[], None]:
    """All matrix products of `work`, forward and backward, and nothing else, each by the faster back end."""
    with Products() as products:
        work()
    calls = []
    for factors, count in products.found.items():
        calls += [fastest(*(strided(*factor) for factor in factors))] * count

    def multiply() -> None:
        for call in calls:
            call()

    return multiply


def strided(shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Random numbers with this layout in memory."""
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return torch.rand(last + 1).as_strided(shape, stride)


def fastest(left: Tensor, right: Tensor) -> Callable[[], Tensor]:
    """The product by MKL or by oneDNN, whichever is faster here."""
    result = left @ right
    candidates = [lambda: torch.matmul(left, right, out=result)]
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if linear is not None and left.ndim == 2:
        weight = right.t()
        candidates.append(lambda: linear(left, weight, None, "none", [], ""))
    return min(candidates, key=shortest)


def shortest(call: Callable[[], object]) -> float:
    """Seconds of the shortest of a few calls."""
    times = []
    for _ in range(10):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def repeated(work: Callable[[], object], times: int) -> Callable[[], int]:
    def run() -> int:
        for _ in range(times):
            work()
        return times

    return run


if __name__ == "__main__":
    main()
