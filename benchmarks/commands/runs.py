"""One run: `bench run`, `eval`, `view` and `show`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omrlbench.terminal import (
    behavior_option,
    complain,
    data_dir_option,
    level_option,
    options,
    print_table,
    results_dir_option,
)

if TYPE_CHECKING:
    from omrlbench.config import RunConfig
    from omrlbench.record import RunRecord

DIFFERENT = 6  # exit code where a repeated run did not come out as its record has it

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


@click.command()
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
    from omrlbench.record import default_results_dir

    results_dir = results_dir or default_results_dir()
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


@click.command(name="eval")
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
            exit_code = complain(str(error), error.exit_code)
            continue
        run = made.config
        click.echo(f"{run['algo']} on {run['env']}, {run['level']} data, seed {run['seed']}, {target.stem}: ", nl=False)
        click.echo(f"score {made.result['score']:z.2f} on {len(made.result['task_ids'])} tasks")
        click.echo(f"record: {target}")
    return exit_code


@click.command()
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
    from omrlbench.record import default_results_dir
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


@click.command()
@cell_options
def show(**cell: Any) -> None:
    """Print every value of a run's configuration and where it came from."""
    from omrlbench.config import explain

    rows = explain(chosen_config(cell))
    print_table(("key", "value", "from"), ((key, str(value), source) for key, value, source in rows))


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
