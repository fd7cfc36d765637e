"""The commands `bench` and `omrlbench`: parsing and printing; every verb calls one function of the harness.

Only click is imported up here, so that `bench --help` answers at once.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omrlbench.data.cli import data, print_datasets
from omrlbench.terminal import (
    Verbs,
    behavior_option,
    data_dir_option,
    kept_results_option,
    level_option,
    options,
    print_table,
    results_dir_option,
)

if TYPE_CHECKING:
    from omrlbench.config import RunConfig
    from omrlbench.leaderboard import Leaderboard
    from omrlbench.record import RunRecord
    from omrlbench.sweep import Cell

DIFFERENT = 6  # exit code where a repeated run did not come out as its record has it
INTERRUPTED = 130
UNDECIDED = 5  # too few runs to compare
POSITIVE = click.FloatRange(0, min_open=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command. Every foreseen error is one line on standard error and an exit code."""
    sys.exit(_exit_code(argv))


def _exit_code(argv: Sequence[str] | None) -> int:
    from omrlbench.errors import BenchError, unusable_file

    try:
        return cli.main(argv, prog_name="bench", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return error.exit_code
    except click.UsageError as error:
        return _complain(f"{error.format_message()} See {_command_path(error)} --help.", error.exit_code)
    except click.Abort:
        return _complain("interrupted", INTERRUPTED)
    except BenchError as error:
        return _complain(str(error), error.exit_code)
    except OSError as error:
        reason = unusable_file(error)
        if reason is None:
            raise
        return _complain(reason, 1)


def _complain(message: str, exit_code: int) -> int:
    click.echo(f"bench: {message}", err=True)
    return exit_code


def _command_path(error: click.UsageError) -> str:
    return error.ctx.command_path if error.ctx else "bench"


cell_options = options(
    click.option("--algo", help="Method, see bench list algos."),
    click.option("--env", help="Meta-environment, see bench list envs."),
    level_option,
    click.option("--budget", default="cpu", show_default=True, help="Amount of training: smoke, cpu, paper."),
    click.option("--preset", help="Named values of the method, for example released-code."),
    click.option("--seed", default=0, show_default=True, help="Of everything that is random in the run."),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one value; repeatable."),
    behavior_option,
    click.option(
        "--eval-split", default="test", show_default=True, help="Tasks of the final evaluation: test or validation."
    ),
)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="omrl-bench", message="%(version)s")
def cli() -> None:
    """Train and compare offline meta-reinforcement learning methods."""


@cli.command()
@cell_options
@click.option("--from", "source", type=click.Path(path_type=Path), help="A record to repeat, instead of all of these.")
@results_dir_option
@data_dir_option
@click.option("--overwrite", is_flag=True, help="Run again although a record exists.")
@click.option("--tensorboard", is_flag=True, help="Also write the curve for TensorBoard, beside the record.")
@click.option("--wandb", is_flag=True, help="Also log the curve to Weights & Biases.")
def run(
    source: Path | None,
    results_dir: Path | None,
    data_dir: Path | None,
    overwrite: bool,
    tensorboard: bool,
    wandb: bool,
    **cell: Any,
) -> int:
    """Train one method on one meta-environment and evaluate it.

    Writes one record and one picture. Interrupted, the same command goes on where it stopped.
    """
    repeated = None if source is None else recorded(source, cell)
    config = chosen_config(cell) if repeated is None else repeated[1]

    from omrlbench import training
    from omrlbench.errors import BenchError
    from omrlbench.progress import Bar

    results_dir = results_dir or training.default_results_dir()
    path = config.record_path(results_dir)
    if source is not None and not overwrite and path.resolve() == source.resolve():
        raise BenchError(
            f"{source} is where the repetition would go: add --overwrite, or --results-dir for another place"
        )
    with Bar("loading data") as bar:
        record = training.run(
            config,
            results_dir=results_dir,
            data_dir=data_dir,
            argv=["bench", *sys.argv[1:]],
            overwrite=overwrite,
            sinks=[name for name, wanted in (("tensorboard", tensorboard), ("wandb", wandb)) if wanted],
            on_progress=bar.training,
            on_message=bar.message,
            on_data_progress=bar.update,
        )
    present(record, path)
    return record.exit_code if repeated is None else compare_repetition(source, repeated[0], record)


def chosen_config(cell: dict[str, Any]) -> "RunConfig":
    from omrlbench.config import resolve

    for name in ("algo", "env"):
        if cell[name] is None:
            raise click.UsageError(f"Missing option '--{name}'.")
    return resolve(**cell)


def recorded(source: Path, cell: dict[str, Any]) -> tuple["RunRecord", "RunConfig"]:
    """What `run --from` repeats. The options that choose a cell are wrong beside it."""
    from omrlbench.record import read_record
    from omrlbench.repetition import recorded_config

    ctx = click.get_current_context()
    for option in ctx.command.params:
        if option.name in cell and ctx.get_parameter_source(option.name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--from repeats the run as it was, without {option.opts[0]}.")
    record = read_record(source)
    return record, recorded_config(source, record)


def compare_repetition(source: Path, before: "RunRecord", after: "RunRecord") -> int:
    """Say whether a repeated run came out as its record has it; the exit code."""
    from omrlbench.repetition import differing_keys

    differing = differing_keys(before, after)
    for section, keys in differing.items():
        click.echo(f"{section} {'differs in ' + ', '.join(keys) if keys else 'equal'}: {source}")
    return after.exit_code or (DIFFERENT if any(differing.values()) else 0)


@cli.command(name="eval")
@click.argument("records", metavar="RECORD...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--protocol",
    help="Where contexts come from: offline, offline_shifted, online.  [default: as the run's score]",
)
@click.option("--episodes", type=click.IntRange(1), help="Per task.  [default: as the run]")
@click.option("--eval-split", "split", help="Tasks: test or validation.  [default: as the run]")
@click.option("--context-level", "level", help="Of the logs that contexts are drawn from.  [default: the run's]")
@data_dir_option
def evaluate(records: Sequence[Path], data_dir: Path | None, **request: Any) -> int:
    """Evaluate the final parameters of recorded runs again.

    Each evaluation has a record of its own, in the folder seed-K.evaluations beside the run's seed-K.json: its name
    tells protocol, level of the contexts, split and episodes per task. A record that cannot be evaluated does not stop
    the others.
    """
    from omrlbench.errors import BenchError
    from omrlbench.progress import Bar
    from omrlbench.reevaluation import Request, evaluate_again

    argv, asked, known, exit_code = ["bench", *sys.argv[1:]], Request(**request), {}, 0
    for path in records:
        try:
            with Bar("evaluating") as bar:
                target, made = evaluate_again(
                    path,
                    asked,
                    data_dir=data_dir,
                    argv=argv,
                    on_data_progress=bar.update,
                    on_message=bar.message,
                    known=known,
                )
        except BenchError as error:
            exit_code = _complain(str(error), error.exit_code)
            continue
        run = made.config
        click.echo(f"{run['algo']} on {run['env']}, {run['level']} data, seed {run['seed']}, {target.stem}: ", nl=False)
        click.echo(f"score {made.result['score']:z.2f} on {len(made.result['task_ids'])} tasks")
        click.echo(f"record: {target}")
    return exit_code


@cli.command()
@click.argument("record", type=click.Path(path_type=Path))
@click.option(
    "--task",
    "tasks",
    type=int,
    multiple=True,
    help="Number of a test task; repeatable.  [default: of the lowest, middle and highest parameter]",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="File, .mp4 or .gif.  [default: an .mp4 in results/local/videos]"
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@data_dir_option
def view(record: Path, tasks: Sequence[int], out: Path | None, overwrite: bool, data_dir: Path | None) -> None:
    """Make a video of a recorded run: its method next to the expert, task after task.

    Both start alike. The method has adapted to an offline context of the task, as in the run's last evaluation, whose
    first episode is shown. Needs the weights beside the record, and no display.
    """
    from omrlbench.progress import Bar
    from omrlbench.training import default_results_dir
    from omrlbench.videos import default_path, make_video

    out = out or default_path(record, default_results_dir())
    with Bar("loading data") as bar:
        shown = make_video(
            record,
            out,
            tasks,
            overwrite=overwrite,
            data_dir=data_dir,
            on_progress=bar.update,
            on_message=bar.message,
        )
    rows = [(str(one.task), f"{one.method:z.2f}", f"{one.expert:z.2f}") for one in shown]
    print_table(("task", "return", "expert's return"), rows, numbers=("return", "expert's return"))
    click.echo(f"video: {out}")


def present(record: "RunRecord", path: Path) -> None:
    """Draw the run's picture, print its table, and say where record and picture are."""
    import numpy as np

    from omrlbench.plots import headline, run_figure

    artefact, picture = path.with_suffix(".npz"), path.with_suffix(".png")
    drawable = bool(record.result["curve"])
    if drawable:
        run_figure(record, dict(np.load(artefact)) if artefact.exists() else {}, picture)
    click.echo(headline(record))
    if record.status == "finished":
        print_returns(record)
    click.echo(f"record: {path}")
    if drawable:
        click.echo(f"picture: {picture}")


def print_returns(record: "RunRecord") -> None:
    """The mean return per task over the evaluations that the score averages, and the means to compare with."""
    import numpy as np

    from omrlbench.envs.references import reference_returns
    from omrlbench.envs.registry import get_meta_env
    from omrlbench.plots import PARAMETERS_SHOWN

    name, split = record.config["env"], record.config["eval_split"]
    evaluations = [e for e in record.result["evaluations"] if e["protocol"] == record.protocol]
    returns = np.mean([e["returns"] for e in evaluations], axis=(0, 2))
    tasks = get_meta_env(name).tasks
    shown = len(tasks.parameter_names) if len(tasks.parameter_names) <= PARAMETERS_SHOWN else 0
    rows = []
    for task, mean in zip(evaluations[0]["task_ids"], returns, strict=True):
        rows.append((str(task), *(f"{value:.3f}" for value in tasks.parameters[task][:shown]), f"{mean:.2f}"))
    references = reference_returns(name, split)
    means = (("mean", returns.mean()), ("expert", references.expert), ("random", references.random))
    rows += [(label, *[""] * shown, f"{value:.2f}") for label, value in means]
    print_table((f"{split} task", *tasks.parameter_names[:shown], "return"), rows, numbers=("return",))


suite_options = options(
    click.argument("suite"),
    click.option(
        "--only",
        multiple=True,
        metavar="KEY=VALUE",
        help="Cells with this env, algo, level, seed or variant; repeatable, a key too.",
    ),
    click.option("--budget", help="Amount of training: smoke, cpu, paper.  [default: the suite's]"),
    click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="To train on."),
)


@cli.command()
@suite_options
@click.option(
    "--workers", type=click.IntRange(1), help="Cells that run at once.  [default: as many as there is room for]"
)
@click.option("--launcher", default="local", show_default=True, help="Where cells run: local, ray, slurm.")
@click.option("--cpus", type=POSITIVE, help="Per cell; ray takes fractions.  [default: 1]")
@click.option("--gpus", type=POSITIVE, help="Per cell; ray takes fractions.  [default: 1 with --device cuda]")
@click.option("--address", help="Of a Ray cluster: host:port, or auto.  [default: one of this machine alone]")
@click.option("--partition", help="Of Slurm.")
@click.option(
    "--time", type=click.IntRange(1), metavar="MINUTES", help="Limit of a Slurm job; a cell goes on in the next."
)
@click.option("--dry-run", is_flag=True, help="Say what would be run, and about what it would take.")
@results_dir_option
@data_dir_option
def sweep(
    suite: str,
    only: Sequence[str],
    budget: str | None,
    device: str,
    workers: int | None,
    launcher: str,
    dry_run: bool,
    results_dir: Path | None,
    data_dir: Path | None,
    **options: Any,
) -> int:
    """Run every cell of a suite that has no record yet.

    Killed or interrupted, the same command goes on. One failing cell does not stop the others.
    """
    from omrlbench.cost import expected_seconds
    from omrlbench.launchers.choice import given_options, make_launcher
    from omrlbench.launchers.worker import Work
    from omrlbench.progress import SweepTable
    from omrlbench.sweep import find_cells
    from omrlbench.sweep import sweep as run_cells
    from omrlbench.training import default_results_dir

    results_dir = results_dir or default_results_dir()
    cells = find_cells(suite, results_dir, key_values(only), budget=budget, device=device)
    if dry_run:
        given_options(launcher, device, options)
        print_plan(cells, results_dir, data_dir, device)
        return 0
    work = Work(results_dir, data_dir, ["bench", *sys.argv[1:]])
    chosen = make_launcher(launcher, work, workers, device, options)
    expected = {place: seconds for place, (seconds, _) in expected_seconds(cells, results_dir).items()}
    with SweepTable(cells, expected) as table:
        run_cells(cells, chosen, table.update)
    counts = Counter(cell.state for cell in cells)
    click.echo(f"{len(cells)} cells: " + ", ".join(f"{counts[s]} {s}" for s in ("finished", "diverged", "failed")))
    return complain_of_failures(cells)


@cli.command()
@suite_options
@results_dir_option
def status(suite: str, only: Sequence[str], budget: str | None, device: str, results_dir: Path | None) -> int:
    """How far a suite is: finished seeds and mean score of every method in every meta-environment.

    Under way are cells that a Slurm job runs or is to run, or that have begun and have no record yet.
    """
    from omrlbench.launchers.queue import queued_jobs
    from omrlbench.sweep import find_cells, under_way
    from omrlbench.training import default_results_dir

    results_dir = results_dir or default_results_dir()
    found = find_cells(suite, results_dir, key_values(only), budget=budget, device=device)
    queued_jobs(results_dir, found)
    rows: dict[tuple[str, ...], list[Cell]] = {}
    for cell in found:
        rows.setdefault((cell.config.env, cell.config.level, cell.config.algo, cell.variant), []).append(cell)
    table = []
    for key, cells in rows.items():
        scores = [cell.score for cell in cells if cell.ended and cell.score is not None]
        mean = f"{sum(scores) / len(scores):.3f}" if scores else ""
        diverged = sum(cell.state == "diverged" for cell in cells)
        counts = (f"{len(scores)} of {len(cells)}", under_way(cells), str(diverged) if diverged else "")
        table.append((*key, *counts, mean))
    header = ("meta-environment", "level", "method", "variant", "seeds", "under way", "diverged", "mean score")
    print_table(header, table, numbers=header[4:])
    return complain_of_failures(found)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@kept_results_option("Where they go.")
def collect(folder: Path, results_dir: Path) -> int:
    """Copy the records of a scratch FOLDER, and what is beside them, to where results are kept.

    Every record is verified as by bench report. Exit codes: 0, or 2 where one is refused: it contradicts itself, or
    there is another one with other results.
    """
    from omrlbench.collecting import collect as collect_records

    outcomes = list(collect_records(folder, results_dir))
    for outcome in outcomes:
        if outcome.remark is not None:
            word = "refused" if outcome.state == "refused" else "stale"
            click.echo(f"{word}: {folder / outcome.place} {outcome.remark}", err=True)
    counts = Counter(outcome.state for outcome in outcomes)
    states = ", ".join(f"{counts[state]} {state}" for state in ("collected", "there already", "refused"))
    click.echo(f"{len(outcomes)} records: {states}")
    return 2 if counts["refused"] else 0


def print_plan(cells: Sequence["Cell"], results_dir: Path, data_dir: Path | None, device: str) -> None:
    """The cells and what they would take: time, as far as it is known, and disk."""
    from omrlbench.cost import GPU_OPERATION, GPU_PRODUCTS, make_plan, run_costs
    from omrlbench.progress import clock

    plan = make_plan(cells, results_dir, data_dir)
    rows = [(c.name, c.state, clock(plan.seconds[k]) if k in plan.seconds else "") for k, c in enumerate(cells)]
    print_table(("cell", "state", "about"), rows, numbers=("about",))
    missing = sum(not cell.ended for cell in cells)
    unknown = missing - len(plan.seconds)
    unit = "GPU-hours" if device == "cuda" else "core-hours"
    hours = f"{sum(plan.seconds.values()) / 3600:.1f} {unit}" + (f" and {unknown} unknown" if unknown else "")
    click.echo(f"{missing} of {len(cells)} cells to run: {hours}")
    computed = len(plan.seconds.keys() - plan.recorded)
    assumed = (
        f"{1e6 * GPU_OPERATION:g} microseconds for each operation and {GPU_PRODUCTS / 1e12:g} TFLOP/s in matrix "
        "products are assumed, evaluations left out"
    )
    if computed and device == "cuda":
        click.echo(f"{computed} of these times are estimates: {assumed}")
    elif computed:
        click.echo(f"{computed} of these times are of the updates alone, measured {run_costs()['conditions']}")
        click.echo(f"on GPUs (--device cuda) an estimated {plan.gpu_seconds / 3600:.1f} GPU-hours: {assumed}")
    click.echo(
        f"disk: at most {plan.run_bytes / 1e9:.2f} GB for runs; {plan.datasets_made} of {plan.datasets} datasets are "
        f"made and take {plan.dataset_bytes / 1e9:.2f} GB"
    )


def complain_of_failures(cells: Iterable["Cell"]) -> int:
    """Say which cells failed, or have a damaged record, and why; the exit code."""
    failed = [cell for cell in cells if cell.state == "failed"]
    for cell in failed:
        click.echo(f"failed: {cell.name}: {cell.reason}", err=True)
    return 1 if failed else 0


def key_values(pairs: Sequence[str]) -> dict[str, list[str]]:
    """ "key=value" strings, also several separated by commas, as the values of each key."""
    table: dict[str, list[str]] = {}
    for pair in (part for text in pairs for part in re.split(",(?=[^,=]*=)", text)):  # values may hold commas
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"--only takes key=value, not {pair!r}.")
        table.setdefault(key.strip(), []).append(value.strip())
    return table


@cli.command()
@kept_results_option("Records.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the report.  [default: ., with --html results/local/report]",
)
@click.option("--check", is_flag=True, help="Write nothing: name the files whose text the records do not give.")
@click.option("--html", is_flag=True, help="Write one page for a browser instead, index.html.")
def report(results_dir: Path, out: Path | None, check: bool, html: bool) -> int:
    """Write the leaderboard from the records: BENCHMARKS.md, results/leaderboard.csv, figures, scores in the docs.

    With --html it is one page that needs no network: tables that sort and filter, methods compared with the one you
    choose, and for every number the runs behind it and the commands that repeat them.

    Exit codes: 0, or 1 where --check finds a difference, or 2 where a record is damaged or changed by hand; the report
    then leaves it out.
    """
    from omrlbench.leaderboard import leaderboard
    from omrlbench.verification import read_results

    if check and html:
        raise click.UsageError("--check is about the committed files, and the page of --html is none: leave out one.")
    board, differing = leaderboard(read_results(results_dir)), []
    if html:
        write_page(board, results_dir, out)
    elif check:
        differing = stale_texts(board, results_dir, out or Path("."))
    else:
        write_report(board, out or Path("."))
    for path, reason in board.results.refused.items():
        click.echo(f"refused: {results_dir / path} {reason}", err=True)
    return 2 if board.results.refused else 1 if differing else 0


def write_page(board: "Leaderboard", results_dir: Path, out: Path | None) -> None:
    from omrlbench.html_report import page
    from omrlbench.record import write_atomic
    from omrlbench.training import default_results_dir

    path = (out or default_results_dir() / "report") / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page(board, results_dir).encode())
    click.echo(path)


def write_report(board: "Leaderboard", out: Path) -> None:
    from omrlbench.leaderboard_figures import draw_all
    from omrlbench.record import write_atomic

    drawn, files = draw_all(board, out / "results" / "figures"), report_texts(board, out)
    for path, text in files.items():
        write_atomic(path, text.encode())
    for path in [*files, *drawn]:
        click.echo(path)


def stale_texts(board: "Leaderboard", results_dir: Path, out: Path) -> list[Path]:
    """The files that are not what the records give; says which."""
    differing = [
        path for path, text in report_texts(board, out).items() if not path.exists() or path.read_text() != text
    ]
    for path in differing:
        click.echo(f"{path} is not what {results_dir} gives: write it by bench report", err=True)
    return differing


def report_texts(board: "Leaderboard", out: Path) -> dict[Path, str]:
    from omrlbench.leaderboard import texts
    from omrlbench.method_pages import method_pages

    return {out / name: text for name, text in (texts(board) | method_pages(board, out)).items()}


@cli.command()
@click.argument("name")
@kept_results_option("Records.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("results/figures"), show_default=True, help="Folder."
)
@click.option("--budget", default="cpu", show_default=True, help="Of the runs.")
def figure(name: str, results_dir: Path, out: Path, budget: str) -> None:
    """Draw a figure or table of the FOCAL paper from the records: fig2 to fig11, table1, table6."""
    from omrlbench.paper_figures import draw_figure

    for path in draw_figure(name, results_dir, out, budget):
        click.echo(path)


@cli.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--results-dir",
    "results_dirs",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Where methods and suites have their runs; repeatable, the first with a run counts."
    "  [default: results/local, results/runs]",
)
@click.option("--budget", default="cpu", show_default=True, help="Of the runs of a method.")
def compare(a: str, b: str, results_dirs: Sequence[Path], budget: str) -> int:
    """Compare the runs of A with those of B in every meta-environment that both have.

    A and B are methods, suites, or paths of records or of folders of them. The numbers are mean scores with Student's t
    interval, the probability that a run of A beats one of B, and the exact p of no difference.

    Exit codes: 0 where A is better, or shows no difference that it could; 1 where A is worse (p < 0.05 over all common
    meta-environments together); 5 where the runs are too few for p < 0.05 whatever they score.
    """
    from omrlbench.compare import compare as compare_sides
    from omrlbench.leaderboard import plus_minus, with_ends
    from omrlbench.training import default_results_dir

    folders = results_dirs or (default_results_dir(), Path("results/runs"))
    result = compare_sides(a, b, folders, budget)
    rows = [
        (c.column, plus_minus(c.a), plus_minus(c.b), " and ".join(map(str, c.improvement.n)), with_ends(c.improvement))
        + (f"{c.p:.2g}",)
        for c in result.columns
    ]
    click.echo(f"A: {a}\nB: {b}")
    header = ("meta-environment", "score of A", "score of B", "n", "P(A > B)", "p")
    print_table(header, rows, numbers=header[1:])
    if len(result.columns) > 1 and result.together:
        c = result.together
        n = " and ".join(map(str, c.improvement.n))
        click.echo(f"together: IQM {with_ends(c.a)} and {with_ends(c.b)}, n = {n} seeds that ran in all")
        click.echo(f"together: P(A > B) {with_ends(c.improvement)}, p = {c.p:.2g}")
    for remark in result.remarks:
        click.echo(remark)
    sentences = {
        "better": "A is better than B",
        "worse": "A is worse than B",
        "alike": "no difference between A and B is shown",
        "undecided": "too few runs to tell: with so many seeds no difference has p < 0.05",
    }
    click.echo(sentences[result.verdict])
    return {"worse": 1, "undecided": UNDECIDED}.get(result.verdict, 0)


@cli.command()
@cell_options
def show(**cell: Any) -> None:
    """Print every value of a run's configuration and where it came from."""
    from omrlbench.config import explain

    rows = explain(chosen_config(cell))
    print_table(("key", "value", "from"), ((key, str(value), source) for key, value, source in rows))


@cli.group(name="list", cls=Verbs)
def list_group() -> None:
    """List what there is."""


@list_group.command()
def algos() -> None:
    """Methods, what each sees of a task that it is evaluated on, and which package it comes from.

    That is a context, the task's whole dataset, or for reference the task's parameters.
    """
    from omrlbench.errors import BenchError
    from omrlbench.registry import algorithm_class, algorithms

    rows = []
    for name, origin in algorithms().items():
        try:
            method = algorithm_class(name)
            rows.append((name, "parameters" if method.privileged else method.allowance, origin))
        except BenchError as error:
            rows.append((name, "", f"{origin}: {error}"))
    print_table(("method", "sees", "from"), rows)


@list_group.command()
def envs() -> None:
    """Meta-environments."""
    from omrlbench.envs.registry import get_meta_env, meta_env_origins

    rows = []
    for name, origin in meta_env_origins().items():
        try:
            spec = get_meta_env(name)
        except ValueError as error:
            rows.append((name, "", "", str(error), origin))
            continue
        splits = " / ".join(str(len(ids)) for ids in spec.tasks.splits.values())
        rows.append((name, splits, str(spec.horizon), spec.description, origin))
    print_table(("meta-environment", "train / validation / test tasks", "horizon", "task", "from"), rows)


@list_group.command()
@data_dir_option
def datasets(data_dir: Path | None) -> None:
    """Datasets, and which of them are made."""
    print_datasets(data_dir)


@list_group.command()
@kept_results_option("Where finished records are looked for.")
def suites(results_dir: Path) -> int:
    """Suites: the cells that a leaderboard promises, and how many of them are finished."""
    from omrlbench.suite import suite_names
    from omrlbench.sweep import find_cells

    found = {name: find_cells(name, results_dir) for name in suite_names()}
    rows = []
    for name, cells in found.items():
        rows.append((name, str(len(cells)), str(sum(cell.state == "finished" for cell in cells))))
    print_table(("suite", "cells", "finished"), rows, numbers=("cells", "finished"))
    return complain_of_failures({cell.path: cell for cells in found.values() for cell in cells}.values())


cli.add_command(data)
