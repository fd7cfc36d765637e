"""The report on real runs of the suites that are ranked: the methods without learning, which take a second each."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omrlbench import training
from omrlbench.claims import Claim, Paper, Side
from omrlbench.cli import main
from omrlbench.config import resolve
from omrlbench.evaluation import PROTOCOLS
from omrlbench.leaderboard import Cell, Leaderboard, leaderboard
from omrlbench.leaderboard_figures import STYLES, curve, draw_all
from omrlbench.leaderboard_texts import ablations, beside_published, claims, context_gap, levels, texts, tuning
from omrlbench.published import Published, published
from omrlbench.record import read_record, write_record
from omrlbench.registry import kind
from omrlbench.suite import suite_cells
from omrlbench.verification import Results, read_results

ENV = "sparse_point_robot"
COLUMN = (ENV, "expert")


def path_of(runs: Path, algo: str = "do_nothing", seed: int = 0) -> Path:
    return resolve(ENV, algo, seed=seed).record_path(runs)


@pytest.fixture
def bench(runs, tmp_path, capsys):
    """Run `bench report`; returns (exit code, standard error)."""

    def call(*more: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main(["report", "--results-dir", str(runs), "--out", str(tmp_path), *more])
        return stop.value.code, capsys.readouterr().err

    return call


def report(runs: Path) -> tuple[str, dict[str, dict[str, str]]]:
    """BENCHMARKS.md, and by method the row of the csv."""
    files = texts(leaderboard(read_results(runs)))
    rows = csv.DictReader(files["results/leaderboard.csv"].splitlines())
    return files["BENCHMARKS.md"], {row["method"]: row for row in rows if row["meta_environment"] == ENV}


def test_a_report_is_written_whole_and_check_finds_what_differs(bench, runs, tmp_path, edit):
    assert bench() == (0, "")
    assert bench("--check") == (0, "")
    names = {path.name for path in (tmp_path / "results" / "figures").iterdir()}
    parts = ("environments", "curves", "aggregates", "profiles", "improvement")
    assert names == {f"leaderboard_{part}.{suffix}" for part in parts for suffix in ("png", "svg")}
    draw_all(leaderboard(read_results(runs)), again := tmp_path / "again")
    for path in again.iterdir():
        assert path.read_bytes() == (tmp_path / "results" / "figures" / path.name).read_bytes(), path.name
    with Image.open(again / "leaderboard_environments.png") as picture:
        assert picture.width > 1000
    for name in ("BENCHMARKS.md", "results/leaderboard.csv"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "\n")
    edited = (tmp_path / "BENCHMARKS.md").read_text()
    code, err = bench("--check")
    assert code == 1 and [line.split()[0] for line in err.splitlines()] == [
        str(tmp_path / "BENCHMARKS.md"),
        str(tmp_path / "results" / "leaderboard.csv"),
    ]
    assert (tmp_path / "BENCHMARKS.md").read_text() == edited  # a check writes nothing
    edit(path_of(runs), lambda record: record["result"].update(score=0.9))
    code, err = bench()
    assert code == 2 and err.startswith(f"refused: {path_of(runs)} is not") and len(err.splitlines()) == 1


def test_numbers_are_those_of_the_records(runs):
    text, rows = report(runs)
    scores = [read_record(path_of(runs, "random_policy", seed)).result["score"] for seed in (0, 1, 7)]
    row = rows["random_policy"]
    assert (row["n"], row["promised"], row["seeds"], row["diverged"]) == ("3", "5", "0 1 7", "0")
    assert [float(score) for score in row["scores"].split()] == pytest.approx(scores, abs=1e-6)
    assert float(row["mean"]) == pytest.approx(sum(scores) / 3, abs=1e-6)
    assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
    assert row["parameters"] == "0" and float(row["wall_seconds"]) > 0
    assert f"4 of {len(suite_cells('core'))} runs are there" in text  # seed 7 is not promised
    assert f"2, 3, 4 of {ENV}; 0, 1, 2, 3, 4 of point_robot, " in text
    assert "Without one complete seed: focal, " in text


def test_one_run_has_no_interval(runs):
    path_of(runs, seed=1).unlink()
    text, rows = report(runs)
    row = rows["do_nothing"]
    assert row["n"] == "1" and row["mean"] and not row["low"] and not row["high"]
    assert f"| *do_nothing* | {float(row['mean']):z.3f} (n = 1 of 5)" in text


def test_a_refused_record_is_told_and_not_used(runs):
    path_of(runs).rename(path_of(runs).with_name("seed-4.json"))
    text, rows = report(runs)
    assert rows["do_nothing"]["seeds"] == "1" and rows["random_policy"]["n"] == "3"
    assert "Refused, not as their run wrote them" in text and "seed-4.json" in text


def test_a_diverged_run_keeps_its_place_with_its_floor_score(runs, edit):
    def diverge(record):
        record["result"]["curve"] = record["result"]["curve"][:1]
        floor = min(0.0, record["result"]["curve"][0]["score"])
        record["result"].update(status="diverged", message="loss is inf", score=floor, evaluations=[])

    edit(path_of(runs), diverge)
    text, rows = report(runs)
    assert rows["do_nothing"]["diverged"] == "1" and rows["do_nothing"]["n"] == "2"
    assert "(n = 2 of 5, 1 diverged)" in text
    cell = leaderboard(read_results(runs)).cells[COLUMN, "do_nothing"]
    floor, other = cell.scores[0], cell.runs[1].result["curve"][-1]["score"]
    steps, estimates = curve(cell)
    assert steps == [1, 2, 3] and estimates[-1].value == pytest.approx((floor + other) / 2)


def test_a_record_of_another_revision_is_listed_and_not_used(runs):
    config, record = resolve(ENV, "do_nothing", seed=0), read_record(path_of(runs))
    old = replace(config, revisions=config.revisions | {"algorithm": 0})
    path_of(runs).unlink()
    old.record_path(runs).parent.mkdir(parents=True)
    stored = old.to_dict() | {"dataset": record.config["dataset"]}
    write_record(old.record_path(runs), replace(record, config=stored))
    text, rows = report(runs)
    assert rows["do_nothing"]["seeds"] == "1"
    assert f"it has algorithm revision 0, this installation {config.revisions['algorithm']}" in text


def test_local_changes_and_unpinned_data_are_labelled(runs, edit):
    edit(path_of(runs), lambda r: r["config"]["dataset"].update(content="0" * 64, state="pinned recipe, other machine"))
    edit(path_of(runs), lambda r: r["execution"].update(git={"commit": "0" * 40, "dirty": True}))
    assert "(n = 2 of 5) † ‡ |" in report(runs)[0]


def test_runs_of_no_cell_of_the_suite_are_counted_only(runs, data_dir):
    training.run(resolve(ENV, "do_nothing", budget="smoke"), results_dir=runs, data_dir=data_dir)
    found = (
        "1 records are of cells that no suite of a ranking (`core`, `single_task`, `rac`, `rac_expert`, `online`) has"
    )
    assert found in report(runs)[0]


def test_a_missing_folder_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["report", "--results-dir", str(tmp_path / "nowhere"), "--out", str(tmp_path)])
    assert stop.value.code == 2 and "there is no results folder" in capsys.readouterr().err


def test_other_protocols_are_shown_with_their_difference(runs):
    text, _ = report(runs)
    for protocol in ("offline_shifted", "online"):
        section = text[text.index(f"### `{protocol}`") :]
        scores = {"offline": [], protocol: []}
        for seed in (0, 1):
            evaluations = read_record(path_of(runs, seed=seed)).result["evaluations"]
            for name, found in scores.items():
                found.append([e["score"] for e in evaluations if e["protocol"] == name][-1])
        first, second = (sum(found) / 2 for found in scores.values())
        assert f"| *do_nothing* | {second:z.3f} ({second - first:+z.3f} ± " in section


def test_what_was_not_measured_is_told(runs, edit):
    def drop(record):
        evaluations = record["result"]["evaluations"]
        record["result"]["evaluations"] = [e for e in evaluations if e["protocol"] != "online"]
        record["result"]["unmeasured"] = {"online": "cannot act without a context"}

    for seed in (0, 1):
        edit(path_of(runs, seed=seed), drop)
    assert "- do_nothing on sparse_point_robot, seeds 0, 1: cannot act without a context" in report(runs)[0]


def test_every_method_of_the_suite_has_a_look_of_its_own():
    methods = {config.algo for _, config in suite_cells("core")}
    assert methods <= STYLES.keys()
    assert len({style.marker for style in STYLES.values()}) == len(STYLES)


def test_published_returns_stand_beside_those_of_the_records(runs, monkeypatch):
    rows = [Published(method, ENV, "offline", -22, 1.5, "a paper") for method in ("do_nothing", "focal")]
    monkeypatch.setattr("omrlbench.leaderboard_texts.published", lambda: rows)
    records = [read_record(path_of(runs, seed=seed)) for seed in (0, 1)]
    last = [[e for e in record.result["evaluations"] if e["protocol"] == "offline"][-1] for record in records]
    mean = np.mean([evaluation["returns"] for evaluation in last])
    found = beside_published(leaderboard(read_results(runs))).splitlines()[2:]
    ours, none = [[cell.strip() for cell in line.strip("|").split("|")][3:] for line in found]
    assert ours[0].split()[0] == f"{mean:.1f}" and ours[1:] == ["2", "-22 ± 1.5", "a paper"]
    assert none[:2] == ["–", "0"]


def test_every_published_number_is_of_a_cell_of_the_suite():
    cells = {(config.env, config.algo) for _, config in suite_cells("core")}
    assert published() and {(row.env, row.method) for row in published()} <= cells
    assert {row.protocol for row in published()} <= PROTOCOLS.keys()


def test_every_ranking_has_its_own_tables_and_the_csv_all(runs):
    text, rows = report(runs)
    first, second = text.split("## Trained on the test task's own data")
    second, third = second.split("## Interaction with the training tasks")
    third, _ = third.split("## Trials of values")
    assert {"single_task_brac", "single_task_bc", "do_nothing"} <= set(first_cells(second))
    assert "focal" not in first_cells(second) and "pearl" not in first_cells(first + second)
    assert "| single_task" not in first + third and "| *single_task" not in first + third
    parts = third.split("### From ")[1:]
    rows_of_parts = [first_cells(part.partition("### The gap")[0]) for part in parts]
    trained = [[row for row in found if row in ("pearl", "smac", "smac_offline", "focal")] for found in rows_of_parts]
    assert trained == [["pearl"], ["smac"], ["smac_offline", "focal"]]
    assert all(found.count("do_nothing") == 1 for found in rows_of_parts)
    assert "The suite `online`: 4 of 150 runs are there." in third
    second, comparison = second.split("### MerPO's comparison of meta-policies")
    assert "The suite `single_task`: 4 of 165 runs are there." in second
    assert "The suite `rac`: 4 of 150 runs are there." in comparison
    assert "rac_random" in first_cells(comparison) and "rac_random" not in first_cells(second)
    comparison, of_experts = comparison.split("The same with experts' data on `walker_params`")
    assert "`rac_expert`: 0 of 55 runs are there." in of_experts and "rac_random" in first_cells(of_experts)
    assert "\n3 meta-environments: " in comparison and "meta-environments: " not in of_experts  # over one, no aggregate
    kinds = {method: (row["allowance"], row["experience"]) for method, row in rows.items()}
    assert all(kinds[method] == kind(method) for method in ("single_task_iql", "focal", "smac", "pearl"))
    protocols = {method: rows[method]["protocol"] for method in ("single_task_iql", "focal", "smac", "pearl")}
    assert protocols == {"single_task_iql": "offline", "focal": "offline", "smac": "online", "pearl": "online"}
    lines = texts(leaderboard(read_results(runs)))["results/leaderboard.csv"].splitlines()
    assert len(lines) == len({tuple(line.split(",")[:3]) for line in lines})  # rows of several suites are there once


def first_cells(text: str) -> list[str]:
    """Of the rows of all tables."""
    return [line.split("|")[1].strip(" *") for line in text.splitlines() if line.startswith("| ")]


def test_the_gap_between_contexts_is_paired_over_seeds(finished):
    record = read_record(path_of(finished))

    def cell(algo: str, *scores: tuple[float, float]) -> Cell:
        """Of runs with these (logged, self-collected) scores at the end, after a worse evaluation."""
        runs = {}
        for seed, (logged, collected) in enumerate(scores):
            parts = [("offline", -1.0), ("offline", logged), ("online", -1.0), ("online", collected)]
            evaluations = [{"protocol": protocol, "score": score} for protocol, score in parts]
            runs[seed] = replace(record, result=record.result | {"evaluations": evaluations})
        return Cell(resolve(ENV, algo), (0, 1), runs)

    before, after = cell("smac_offline", (0.8, 0.2), (0.6, 0.4)), cell("smac", (0.7, 0.5), (0.7, 0.7), (0.4, 0.4))
    diverged = replace(record, result=record.result | {"status": "diverged", "evaluations": []})
    before.runs[2] = diverged
    board = Leaderboard({(COLUMN, "smac_offline"): before, (COLUMN, "smac"): after}, Results(), "online")
    lines = [[text.strip(" †‡") for text in line.split("|")[2:-1]] for line in context_gap(board).splitlines()[2:]]
    assert lines == [  # Student's t: 12.71 / sqrt(2) standard deviations of two, 4.303 / sqrt(3) of three
        ["smac_offline", "0.700 ± 1.271", "0.300 ± 1.271", "0.400 ± 2.541", "2"],
        ["smac", "0.600 ± 0.430", "0.533 ± 0.379", "0.067 ± 0.287", "3"],
        ["change", "0.000 ± 1.271", "0.300 ± 0.000", "-0.300 ± 1.271", "2"],
    ]
    longer = context_gap(board, control=[("longer", before)]).splitlines()[-1]
    assert longer.startswith(f"| {ENV}, expert data | smac_offline, longer") and "| 0.400 ± 2.541 | 2 |" in longer
    before.runs.clear()
    lines = [line.split("|")[2:-1] for line in context_gap(board).splitlines()[2:]]
    assert [cell.strip() for cell in lines[2]] == ["change", "–", "–", "–", "–"]


def test_each_paper_has_its_table_and_its_family(finished, monkeypatch):
    record = read_record(path_of(finished))
    runs = {}
    for place, algo in enumerate(("random_policy", "do_nothing")):
        scored = [replace(record, result=record.result | {"score": seed + 10 * place}) for seed in range(5)]
        runs[resolve(ENV, algo).record_path("").parent] = dict(enumerate(scored))
    clear = Claim(Side("do_nothing"), Side("random_policy"), (ENV,), "Section 1")
    not_run = Claim(Side("focal"), Side("bc"), (ENV,), "Section 2")
    papers = (
        Paper("One", "A and B", "First", "ICLR", "Tested.", (clear,)),
        Paper("Ten", "C", "Second", "ICML", "Tested.", (clear, *[not_run] * 9)),
    )
    monkeypatch.setattr("omrlbench.leaderboard_texts.PAPERS", papers)
    _, one, ten = claims(Leaderboard({}, Results(runs))).split("### ")
    assert one.startswith("One\n\nA and B, *First*, ICLR. Tested.\n\n| claim |")
    assert f"| do_nothing > random_policy | score | {ENV} | Section 1 | 1.000 [" in one
    assert "| 5 and 5 | 0.0079 | **reproduced** at the cpu budget |" in one
    assert (
        "| 5 and 5 | 0.079 | **inconclusive** at the cpu budget: so few seeds" in ten and ten.count("not yet run") == 9
    )


def test_a_claim_tells_the_effect_in_each_meta_environment(finished, monkeypatch):
    record = read_record(path_of(finished))
    scores = {("do_nothing", ENV): (1, 2), ("random_policy", ENV): (0, 0), ("do_nothing", "point_robot"): (0, 1)}
    scores["random_policy", "point_robot"] = (0.5, 2)
    runs = {
        resolve(env, algo).record_path("").parent: {
            seed: replace(record, result=record.result | {"score": score}) for seed, score in enumerate(values)
        }
        for (algo, env), values in scores.items()
    }
    claim = Claim(Side("do_nothing"), Side("random_policy"), (ENV, "point_robot"), "Section 1")
    monkeypatch.setattr(
        "omrlbench.leaderboard_texts.PAPERS", (Paper("One", "A", "First", "ICLR", "Tested.", (claim,)),)
    )
    assert f"| {ENV} 1.00, point_robot 0.25 | Section 1 | 0.625 [" in claims(Leaderboard({}, Results(runs)))


def test_trials_are_counted_by_configuration_on_validation_tasks_alone(finished):
    measured = read_record(path_of(finished))
    scored = replace(measured, config=measured.config | {"algo": "focal"})
    trial = replace(scored, config=scored.config | {"eval_split": "validation"})
    runs = {Path("one"): {100: trial, 101: trial}, Path("another"): {100: trial}, Path("scored"): {0: scored}}
    mixed = replace(trial, config=trial.config | {"level": "mixed"})
    shown = tuning(leaderboard(Results(runs | {Path("mixed"): {100: mixed}})))
    assert shown.splitlines()[0].endswith(f"| {ENV}<br>mixed data |")
    assert "\n| focal | 2 | 0 | 0 | 0 | 0 | 1 |" in shown


def test_ablations_and_levels_show_the_runs_of_their_suites(finished):
    record = read_record(path_of(finished))

    def runs(env, algo="focal", level=None, changes=()):
        folder = resolve(env, algo, level=level, overrides=changes).record_path("").parent
        return {folder: {seed: replace(record, result=record.result | {"score": 0.1 * seed}) for seed in range(2)}}

    changed = runs("walker_params", "focal_coupled", changes=["regularization=both"])
    board = Leaderboard({}, Results(changed | runs(ENV, level="medium")))
    row = next(row for row in ablations(board).splitlines() if "focal_coupled | value penalty" in row)
    assert row.startswith("| walker_params | mixed | focal_coupled | value penalty | 0.050 ± 0.635 (n = 2 of 6)")
    header, _, *rows = levels(board).splitlines()
    assert header == "| meta-environment | random | medium | expert | mixed |"
    assert rows[0].startswith(f"| {ENV} | – (0 of 5) | 0.050 ± 0.635 (n = 2 of 5)")
    assert all(row.count("– (0 of 5)") == 4 for row in rows[1:])
