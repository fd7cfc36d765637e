"""The command line: exit codes, messages and files."""

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from filelock import FileLock
from rich.console import Console

from omrlbench import record as records
from omrlbench.cli import cli, main
from omrlbench.config import resolve
from omrlbench.progress import Bar
from omrlbench.record import RunRecord, read_record, write_record
from omrlbench.suite import suite_cells
from omrlbench.training import Progress

pytestmark = pytest.mark.usefixtures("tiny")

RUN = ["run", "--algo", "tiny", "--env", "sparse_point_robot", "--budget", "smoke", "--set", "eval_interval=20"]


@pytest.fixture
def bench(capsys):
    """Run a command in this process; returns (exit code, standard output, standard error)."""

    def call(*arguments) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        return stop.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def run(bench, tmp_path, data_dir):
    """A run of the tiny method with its records in `tmp_path`."""
    return lambda *more: bench(*RUN, "--results-dir", tmp_path, "--data-dir", data_dir, *more)


def commands(group: click.Group = cli, prefix: tuple[str, ...] = ()):
    yield prefix
    for name, command in group.commands.items():
        below = commands(command, (*prefix, name)) if isinstance(command, click.Group) else [(*prefix, name)]
        yield from below


# ------------------------------------------------------------------ help


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help(bench, command, flag):
    code, out, err = bench(*command, flag)
    assert code == 0 and not err
    assert out.startswith(f"Usage: {' '.join(('bench', *command))} ")


def test_help_answers_at_once_and_imports_nothing_heavy():
    script = "import sys; from omrlbench.cli import main\ntry: main(['--help'])\n"
    script += "finally: print([m for m in ('torch', 'numpy', 'rich', 'yaml') if m in sys.modules])"
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]"
    # processor time, since other processes stretch the time on the clock
    assert ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime < 0.6


def test_no_command_shows_help(bench):
    code, out, _ = bench()
    assert code == 2 and "Commands:" in out


# ------------------------------------------------------------------ wrong input

CELL = ("--algo", "tiny", "--env", "point_robot")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["rnu"], ["'rnu'", "did you mean run?", "show"]),
        (["list", "algoz"], ["'algoz'", "did you mean algos?", "suites"]),
        (["data", "mkae", "point_robot"], ["'mkae'", "did you mean make?", "validate"]),
        (["run"], ["--algo", "bench run --help"]),
        (["run", *CELL, "--leve", "expert"], ["--leve", "--level"]),
        (["run", *CELL, "--seed", "one"], ["'one'", "--seed"]),
        (["run", *CELL, "--seed", "-1"], ["seed", "-1"]),
        (["run", "--algo", "tinny", "--env", "point_robot"], ["'tinny'", "did you mean tiny?", "focal"]),
        (["run", "--algo", "tiny", "--env", "point_robo"], ["'point_robo'", "did you mean point_robot?"]),
        (["run", *CELL, "--level", "exprt"], ["'exprt'", "did you mean expert?", "mixed"]),
        (["run", *CELL, "--budget", "cp"], ["'cp'", "did you mean cpu?", "smoke"]),
        (["run", *CELL, "--preset", "wild"], ["'wild'", "did you mean wide?"]),
        (["run", *CELL, "--behavior", "pertask"], ["'pertask'", "did you mean per_task?", "conditioned"]),
        (["run", *CELL, "--eval-split", "tset"], ["'tset'", "did you mean test?", "validation"]),
        (["run", *CELL, "--set", "batchsize=3"], ["'batchsize'", "did you mean batch_size?"]),
        (["run", *CELL, "--set", "batch_size=many"], ["batch_size", "an integer", "'many'"]),
        (["run", *CELL, "--set", "batch_size"], ["key=value", "'batch_size'"]),
        (["show", "--algo", "tiny", "--env", "walker"], ["'walker'", "sparse_point_robot"]),
        (["data", "make", "walker"], ["'walker'", "sparse_point_robot"]),
        (["data", "make", "point_robot", "--level", "best"], ["'best'", "expert"]),
        (["data", "train-behavior", "point_robot", "--behavior", "x"], ["'x'", "conditioned"]),
        (["data", "show", "point_robot", "--behavior", ""], ["unknown behaviour kind ''", "conditioned"]),
        (["data", "validate", "point_robot", "--data-dir", "none"], ["not made yet; make it: bench data make"]),
    ],
    ids=" ".join,
)
def test_wrong_input_is_one_line_and_exit_code_2(bench, arguments, parts):
    code, out, err = bench(*arguments)
    assert code == 2 and not out
    assert len(err.splitlines()) == 1
    for part in parts:
        assert part in err


# ------------------------------------------------------------------ list and show


def test_lists(bench, data_dir):
    rows = {line.split()[0]: line.split()[1] for line in bench("list", "algos")[1].splitlines()}
    assert rows["focal"] == "context" and rows["single_task_iql"] == "dataset"
    assert rows["oracle_task"] == rows["expert_policy"] == "parameters"
    (smac,) = (line for line in bench("list", "algos")[1].splitlines() if line.startswith("smac "))
    assert "logs and reward-free interaction  built in" in smac
    envs = bench("list", "envs")[1]
    assert "point_robot_wind" in envs and "80 / 10 / 20" in envs
    for command in (("list", "datasets"), ("data", "list")):
        table = bench(*command, "--data-dir", data_dir)[1].splitlines()
        states = {line.split()[0]: line for line in table}
        assert "not made" in states["omrl/point_robot/mixed-v1"]
        assert "not made" not in states["omrl/sparse_point_robot/expert-v1"]


def test_suites_count_finished_records(bench, tmp_path):
    def row() -> list[str]:
        table = bench("list", "suites", "--results-dir", tmp_path)[1].splitlines()
        return next(line.split() for line in table if line.startswith("point_robots "))

    cells = [config for _, config in suite_cells("point_robots")]
    assert len({cell.record_path(tmp_path) for cell in cells}) == 9
    assert row() == ["point_robots", "9", "0"]
    for cell, status in zip(cells, ("finished", "diverged"), strict=False):
        result = {"status": status, "message": None, "score": 0.0, "curve": [], "evaluations": []}
        path = cell.record_path(tmp_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, RunRecord(cell.to_dict(), {}, result, {}))
    assert row() == ["point_robots", "9", "1"]


def test_show_prints_every_value_and_its_source(bench):
    code, out, _ = bench("show", *CELL, "--budget", "smoke", "--set", "batch_size=7", "--preset", "wide")
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in out.splitlines()[1:]}
    assert code == 0
    assert [word.strip() for word in rows["batch_size"]] == ["7", "--set"]
    assert rows["steps"][1].strip() == "budget smoke"
    assert rows["discount"][1].strip() == "environment point_robot"
    assert rows["learning_rate"][1].strip() == "tiny default"
    assert "preset wide" in " ".join(rows["hidden"])


def test_small_terminal_folds_and_no_color_is_heard(bench, monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "40", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    _, out, _ = bench("list", "envs")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert max(map(len, plain.splitlines())) <= 40
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", out)


# ------------------------------------------------------------------ run


def test_run_prints_table_record_and_picture(run, tmp_path):
    code, out, err = run()
    assert code == 0 and not err
    lines = out.splitlines()
    assert re.fullmatch(r"tiny on sparse_point_robot, expert data: score -?\d\.\d\d on 20 test tasks", lines[0])
    returns = {line.split()[0]: line.split()[-1] for line in lines[2:-2]}
    record = read_record(Path(lines[-2].removeprefix("record: ")))
    last = [e["returns"] for e in record.result["evaluations"] if e["protocol"] == "offline"]
    assert len(last) == 3 and len(returns) == 23
    first_task = str(record.result["evaluations"][0]["task_ids"][0])
    mean = sum(sum(evaluation[0]) / len(evaluation[0]) for evaluation in last) / 3
    assert returns[first_task] == f"{mean:.2f}"
    assert {"mean", "expert", "random"} <= set(returns)
    picture = Path(lines[-1].removeprefix("picture: "))
    assert picture.read_bytes().startswith(b"\x89PNG") and tmp_path in picture.parents


def test_finished_run_is_shown_again_and_repeated_on_request(run):
    first = run()
    code, out, err = run()
    assert code == 0 and out == first[1] and "already finished" in err
    path = Path(out.splitlines()[-2].removeprefix("record: "))
    path.with_suffix(".png").unlink()
    before = read_record(path)
    code, out, err = run("--overwrite")
    assert code == 0 and "already finished" not in err
    assert read_record(path).result == before.result
    assert read_record(path).execution["sittings"] != before.execution["sittings"]
    assert path.with_suffix(".png").exists()


def test_a_recorded_run_is_repeated_and_compared(run, bench, tmp_path, data_dir):
    run("--set", "learning_rate=0.02", "--seed", "3")
    (source,) = tmp_path.rglob("seed-3.json")
    places = ["--data-dir", data_dir, "--results-dir"]
    code, out, err = bench("run", "--from", source, *places, tmp_path / "again")
    assert code == 0 and not err
    assert out.splitlines()[-2:] == [f"config equal: {source}", f"result equal: {source}"]
    (copy,) = (tmp_path / "again").rglob("seed-3.json")
    assert read_record(copy).config == read_record(source).config and read_record(copy).sources["steps"]
    code, out, err = bench("run", "--from", source, *places, tmp_path)
    assert code == 2 and not out and "add --overwrite, or --results-dir" in err
    code, out, _ = bench("run", "--from", source, *places, tmp_path, "--overwrite")
    assert code == 0 and out.endswith(f"result equal: {source}\n")

    record = read_record(source)
    write_record(source, replace(record, result=record.result | {"score": 0.5, "evaluations": []}))
    code, out, _ = bench("run", "--from", source, *places, tmp_path / "other")
    assert code == 6 and out.endswith(f"config equal: {source}\nresult differs in score, evaluations: {source}\n")


def test_a_record_of_another_installation_is_not_repeated(run, bench, tmp_path, monkeypatch):
    import tiny_method

    run()
    (source,) = tmp_path.rglob("seed-0.json")
    code, out, err = bench("run", "--from", source, "--seed", "1")
    assert code == 2 and not out and "--from repeats the run as it was, without --seed" in err
    monkeypatch.setattr(tiny_method.Cloning, "revision", 2)
    code, out, err = bench("run", "--from", source, "--results-dir", tmp_path / "again")
    assert code == 2 and not out and len(err.splitlines()) == 1
    assert "it has algorithm revision 1, this installation 2" in err
    monkeypatch.undo()
    code, _, err = bench("run", "--from", tmp_path / "none.json")
    assert code == 2 and "there is no run record" in err


def test_a_record_whose_config_is_of_the_wrong_form_is_not_repeated(bench, tmp_path):
    path = tmp_path / "seed-0.json"
    result = {"status": "finished", "message": None, "score": 0.5, "curve": [], "evaluations": []}
    wrong = {"env": "point_robot", "algo": "focal", "dataset": {"recipe": "x"}, "training": 5}
    for config in ({}, wrong):
        write_record(path, RunRecord(config, {}, result, {}))
        code, out, err = bench("run", "--from", path)
        assert code == 2 and not out and err.startswith(f"bench: {path} is not as its run wrote it: "), err


def test_eval_prints_one_line_and_the_record_of_each_run(run, bench, tmp_path, data_dir):
    for seed in (0, 1):
        run("--seed", seed)
    sources = sorted(tmp_path.rglob("seed-*.json"))
    asked = ["--protocol", "offline_shifted", "--episodes", 2, "--data-dir", data_dir]
    code, out, err = bench("eval", sources[0], tmp_path / "none.json", sources[1], *asked)
    lines = out.splitlines()
    assert code == 2 and err == f"bench: there is no run record {tmp_path / 'none.json'}\n" and len(lines) == 4
    start = "tiny on sparse_point_robot, expert data, seed 1, offline_shifted-expert-test-2: score "
    assert lines[2].startswith(start) and lines[2].endswith(" on 20 tasks")
    target = sources[1].with_suffix(".evaluations") / "offline_shifted-expert-test-2.json"
    assert lines[3] == f"record: {target}" and target.exists()


def test_diverged_run_exits_with_3_and_keeps_its_record(run, tmp_path):
    code, out, err = run("--set", "breaks_after=30")
    assert code == 3
    assert len(err.splitlines()) == 1 and "cloning_loss" in err
    (path,) = tmp_path.rglob("*.json")
    assert read_record(path).status == "diverged" and f"record: {path}" in out


def test_second_process_on_a_run_is_told_so(run, tmp_path):
    path = resolve("sparse_point_robot", "tiny", budget="smoke", overrides=["eval_interval=20"]).record_path(tmp_path)
    path.parent.mkdir(parents=True)
    with FileLock(path.with_suffix(".lock")):
        code, out, err = run()
    assert code == 4 and not out
    assert len(err.splitlines()) == 1 and "another process" in err


def test_interrupted_run_exits_with_130_and_resumes(run, monkeypatch, tmp_path):
    import tiny_method

    update = tiny_method.Cloning.update

    def interrupted(self, batch):
        if self.updates == 40:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, batch)

    monkeypatch.setattr(tiny_method.Cloning, "update", interrupted)
    code, out, err = run()
    assert code == 130 and not out
    assert len(err.splitlines()) == 1 and "the same command resumes" in err
    monkeypatch.setattr(tiny_method.Cloning, "update", update)
    code, out, err = run()
    assert code == 0 and "resuming" in err and "score" in out


def test_results_folder_that_cannot_be_written_is_one_line(bench, tmp_path, data_dir):
    (tmp_path / "file").touch()
    code, out, err = bench(*RUN, "--results-dir", tmp_path / "file" / "below", "--data-dir", data_dir)
    assert code == 1 and not out
    assert len(err.splitlines()) == 1 and str(tmp_path / "file") in err


def test_data_folder_that_cannot_be_written_is_one_line(bench, tmp_path):
    file = tmp_path / "file"
    file.touch()
    for command in (["data", "make", "sparse_point_robot"], [*RUN, "--results-dir", tmp_path]):
        code, out, err = bench(*command, "--data-dir", file)
        assert code == 1 and not out
        assert len(err.splitlines()) == 1 and str(file) in err


def test_full_disk_is_one_line_and_leaves_nothing_half_written(run, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(records.os, "fsync", full)
    code, out, err = run()
    assert code == 1 and not out
    assert len(err.splitlines()) == 1 and "No space left" in err and str(tmp_path) in err
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".lock"}


# ------------------------------------------------------------------ data


def test_data_make_show_validate(bench, tmp_path):
    dataset = ("point_robot_wind", "--level", "random", "--data-dir", tmp_path)
    code, out, err = bench("data", "make", *dataset)
    assert code == 0 and not err
    assert Path(out.strip().removeprefix("dataset: ")).is_dir()
    assert bench("data", "validate", *dataset)[0] == 0
    code, out, err = bench("data", "show", *dataset, "--results-dir", tmp_path / "results")
    assert code == 0 and not err
    about, tasks = out.split("\n\n")
    rows = dict(line.split(maxsplit=1) for line in about.splitlines())
    assert rows["splits.test.tasks"].strip() == "10" and rows["recipe.level"].strip() == "random"
    header, *tasks, last = tasks.splitlines()
    assert header.split() == ["task", "split", "episodes", "transitions", "mean", "return", "lowest", "highest"]
    assert [line.split()[:4] for line in (tasks[0], tasks[59])] == [
        ["0", "train", "50", "1250"],
        ["59", "validation", "50", "1250"],
    ]
    picture = Path(last.removeprefix("picture: "))
    assert picture == tmp_path / "results" / "datasets" / "point_robot_wind" / "random-v1.png"
    assert picture.read_bytes().startswith(b"\x89PNG")

    (file,) = tmp_path.rglob("*.hdf5")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    code, out, err = bench("data", "validate", *dataset)
    assert code == 2 and len(err.splitlines()) == 1 and file.name in err


def test_data_show_of_what_is_not_made_draws_nothing(bench, tmp_path):
    code, out, err = bench("data", "show", "point_robot_wind", "--data-dir", tmp_path, "--results-dir", tmp_path)
    assert code == 0 and not err
    assert "not made" in out and "picture" not in out
    assert not list(tmp_path.iterdir())


def test_data_show_names_a_level_that_it_cannot_compare(bench, tmp_path, data_dir):
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    (tmp_path / "omrl" / "sparse_point_robot" / "random-v1" / "data").mkdir(parents=True)
    code, out, err = bench("data", "show", "sparse_point_robot", "--data-dir", tmp_path, "--results-dir", tmp_path)
    assert code == 0 and "picture: " in out
    assert len(err.splitlines()) == 1
    assert err.startswith("left out: ") and "random-v1" in err and "make it again: bench data make" in err


def test_waiting_for_another_process_that_makes_the_dataset_is_said_once(bench, tmp_path, monkeypatch):
    folder = tmp_path / "omrl" / "point_robot_wind"
    folder.mkdir(parents=True)
    lock = FileLock(folder / ".random-v1.lock")
    lock.acquire()
    show = Bar.message

    def message(bar, line):
        show(bar, line)
        lock.release()

    monkeypatch.setattr(Bar, "message", message)
    code, _, err = bench("data", "make", "point_robot_wind", "--level", "random", "--data-dir", tmp_path)
    assert code == 0
    assert err == "waiting for another process that makes omrl/point_robot_wind/random-v1\n"


# ------------------------------------------------------------------ progress


@pytest.mark.parametrize(("columns", "shown"), [("100", "a_loss 0.5  score 0.25  80 steps/s"), ("40", "score 0.25")])
def test_progress_says_loss_score_and_speed_where_there_is_room(monkeypatch, columns, shown):
    monkeypatch.setenv("COLUMNS", columns)
    with Bar() as bar:
        bar.training(Progress(None, 50, 100, {"a_loss": 0.5, "alpha": 3.0, "b_loss": 1.0}, 0.25, 80.0))
        (task,) = bar.progress.tasks
        assert task.description == shown and task.completed == 50 and task.total == 100
        bar.training(Progress("meta_policy", 5, 20, {}, None, 80.0))
        assert "meta_policy" in bar.progress.tasks[-1].description


def test_progress_is_quiet_without_a_terminal(capsys):
    assert not Console(stderr=True).is_terminal
    with Bar() as bar:
        bar.update("working", 1, 2)
    assert capsys.readouterr() == ("", "")
