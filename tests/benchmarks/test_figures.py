import pytest
from PIL import Image

from omrlbench.errors import BenchError
from omrlbench.figures import variants_figure
from omrlbench.record import RunRecord, write_record
from omrlbench.suite import suite_cells


def write_curves(results_dir, cells):
    for slope, (_, config) in enumerate(cells):
        curve = [{"step": step, "score": slope * step / 1e4} for step in (100, 200, 300)]
        result = {"status": "finished", "message": None, "score": 0.0, "curve": curve, "evaluations": []}
        path = config.record_path(results_dir)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, RunRecord(config.to_dict(), {}, result, {}))


def test_a_suite_of_variants_becomes_one_picture(tmp_path):
    write_curves(tmp_path, suite_cells("focal_stability"))
    variants_figure("focal_stability", tmp_path, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > 1000


def test_a_missing_record_is_named(tmp_path):
    write_curves(tmp_path, suite_cells("focal_stability")[:2])
    with pytest.raises(BenchError, match="no record of 'full gradient penalty'"):
        variants_figure("focal_stability", tmp_path, tmp_path / "picture.png")
    assert not (tmp_path / "picture.png").exists()
