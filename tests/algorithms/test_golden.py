"""A method's numbers change only together with its revision: 50 updates of each stage against the stored ones.

After bumping `revision` in the method's class, or adding a method, store anew:
`python tests/algorithms/test_golden.py`.
"""

import json
import tempfile
from pathlib import Path

import pytest
import torch

from omrlbench.algorithms.algorithm import LAST_STAGE
from omrlbench.config import resolve
from omrlbench.data.store import load_dataset
from omrlbench.evaluation import Stream, generator
from omrlbench.registry import ALGORITHMS, VARIANTS
from omrlbench.training import make_algorithm, make_sampler

GOLDEN = Path(__file__).with_name("golden.json")
ENV = "sparse_point_robot"
UPDATES = 50


def measure(algo: str, data_dir: Path) -> dict:
    torch.set_num_threads(1)
    config = resolve(ENV, algo, budget="smoke")
    dataset = load_dataset(ENV, data_dir=data_dir)
    algorithm = make_algorithm(config, dataset)
    batches, metrics = generator(config.seed, Stream.BATCHES), {}
    for stage in (*algorithm.stages, LAST_STAGE):
        algorithm.stage = stage
        sampler = make_sampler(config, dataset, algorithm, batches)
        for _ in range(UPDATES):
            latest = algorithm.update(sampler.sample())
        metrics |= latest
    return {"revisions": config.revisions, "metrics": {name: float(value) for name, value in metrics.items()}}


@pytest.mark.parametrize("algo", [*ALGORITHMS, *VARIANTS])
def test_results_change_only_with_the_revision(algo, data_dir):
    stored, now = json.loads(GOLDEN.read_text())[algo], measure(algo, data_dir)
    bumped = stored["revisions"] != now["revisions"]
    advice = "; bump its revision" if not bumped else "; store the new numbers: python tests/algorithms/test_golden.py"
    # another processor rounds differently, and 50 updates enlarge that a little
    same = now["metrics"] == pytest.approx(stored["metrics"], rel=1e-2, abs=1e-3)
    assert same and not bumped, f"{algo} computes {now}, stored is {stored}{advice}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        table = {algo: measure(algo, Path(scratch)) for algo in (*ALGORITHMS, *VARIANTS)}
    GOLDEN.write_text(json.dumps(table, indent=1) + "\n")
