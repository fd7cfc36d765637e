"""The script sweeps with one worker and with two."""

from click.testing import CliRunner

from omrlbench.perf import sweep_throughput


def test_script_prints_how_much_faster_two_workers_are(monkeypatch, data_dir):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(data_dir))
    done = CliRunner().invoke(sweep_throughput.main, ["--only", "algo=do_nothing"])
    assert done.exit_code == 0, done.output
    one, two, ratio = [cell.split()[0] for cell in done.output.splitlines()[-1].split("|")[2:5]]
    assert float(one) > 0 and float(two) > 0 and ratio.endswith("x")
