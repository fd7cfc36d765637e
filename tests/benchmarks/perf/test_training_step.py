"""The script counts the products of an update, and the update has not become much slower beside them."""

import json

import pytest
import torch
from click.testing import CliRunner

from omrlbench.perf import training_step
from omrlbench.perf.training_step import SHAPES, STORED, Products, Shape, measure, relative

SMALL = Shape("point_robot", width=8, meta_batch=2, batch_size=4, target=3.0, updates=1)


def test_the_products_of_a_layer_are_one_forward_and_one_for_each_gradient():
    layer, inputs = torch.nn.Linear(3, 5), torch.randn(7, 3, requires_grad=True)
    with Products() as products:
        layer(inputs).sum().backward()
    sizes = sorted(tuple(shape for shape, _ in factors) for factors in products.found.elements())
    assert sizes == [((5, 7), (7, 3)), ((7, 3), (3, 5)), ((7, 5), (5, 3))]


def test_products_keep_their_layout_in_memory():
    found = training_step.strided((4, 3), (1, 4))
    assert found.shape == (4, 3) and found.stride() == (1, 4)
    assert training_step.strided((6, 2), (0, 1)).unique().numel() == 2


def test_the_script_prints_a_row_per_shape_and_stores_the_ratios(monkeypatch, tmp_path):
    monkeypatch.setattr(training_step, "SHAPES", {"small": SMALL})
    monkeypatch.setattr(training_step, "STORED", tmp_path / "ratios.json")
    done = CliRunner().invoke(training_step.main, ["--rounds", "1", "--store"])
    assert done.exit_code == 0, done.output
    (row,) = [line for line in done.output.splitlines() if line.startswith("| small |")]
    ratios = json.loads((tmp_path / "ratios.json").read_text())["small"]
    assert f" {ratios['update']:.2f} " in row and ratios["update"] > 1


@pytest.mark.parametrize("name", ["tiny", "lite"])
def test_no_gross_regression_of_a_ratio(name):
    before = json.loads(STORED.read_text())[name]
    update, drawing = relative(measure(SHAPES[name], rounds=5))
    assert update < 1.5 * before["update"] and drawing < 1.5 * before["drawing"]
