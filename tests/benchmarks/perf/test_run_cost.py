"""The script measures every stage of a method, and counts what a GPU would have to do."""

import torch

from omrlbench.config import resolve
from omrlbench.perf.run_cost import Operations, measure
from omrlbench.perf.training_step import random_dataset


def test_all_stages_are_measured():
    measured = measure(resolve("point_robot", "mbml", budget="smoke"), random_dataset("point_robot"), updates=1)
    assert {name: stage["updates"] for name, stage in measured["stages"].items()} == {
        "teachers": 50,
        "ensembles": 50,
        "train": 100,
    }
    for stage in measured["stages"].values():
        assert stage["seconds"] > 0 and stage["operations"] > 50 and stage["product_flops"] > 1e4
    assert measured["state_bytes"] > 1e4


def test_operations_are_counted():
    with Operations() as operations:
        torch.ones(3) + torch.ones(3)
    assert operations.count == 3
