"""Datasets: `bench data`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omrlbench.terminal import (
    Verbs,
    behavior_option,
    data_dir_option,
    flatten,
    options,
    print_table,
    results_dir_option,
)

if TYPE_CHECKING:
    from omrlbench.data.dataset import MultiTaskDataset
    from omrlbench.envs.registry import MetaEnvSpec

import_option = click.option("--name", help="An imported dataset of this name instead of a level.")
data_level_option = click.option(
    "--level",
    help="Data quality: random, medium, expert or mixed; with -shifted, contexts by the policies of other tasks. "
    "[default: the environment's]",
)
dataset_options = options(click.argument("env"), data_level_option, behavior_option, data_dir_option)


@click.group(cls=Verbs)
def data() -> None:
    """Make, check and describe datasets."""


@data.command(name="list")
@data_dir_option
def list_datasets(data_dir: Path | None) -> None:
    """List all datasets, and which of them are made."""
    print_datasets(data_dir)


def spec_and_kind(env: str, behavior: str | None) -> tuple["MetaEnvSpec", str]:
    from omrlbench.registry import meta_env

    spec = meta_env(env)
    return spec, spec.behavior_kind if behavior is None else behavior


def spec_level_and_kind(env: str, level: str | None, behavior: str | None) -> tuple["MetaEnvSpec", str, str]:
    spec, kind = spec_and_kind(env, behavior)
    return spec, spec.default_level if level is None else level, kind


def import_spec(env: str, level: str | None, behavior: str | None) -> "MetaEnvSpec":
    """The meta-environment of an import, which has neither a level nor a kind of behaviour policy."""
    if level is not None or behavior is not None:
        raise click.UsageError("--name tells an import, which has no --level and no --behavior.")
    return spec_and_kind(env, None)[0]


@data.command(name="show")
@dataset_options
@import_option
@results_dir_option
def show_dataset(
    env: str,
    level: str | None,
    behavior: str | None,
    data_dir: Path | None,
    name: str | None,
    results_dir: Path | None,
) -> None:
    """Describe one dataset: identity, sizes, returns per task, and a picture of returns and states."""
    from omrlbench.data.importers import describe_import, load_imported
    from omrlbench.data.store import describe, level_returns, load_dataset

    if name is None:
        spec, level, kind = spec_level_and_kind(env, level, behavior)
        about = describe(spec.name, level, behavior=kind, data_dir=data_dir)
    else:
        spec = import_spec(env, level, behavior)
        about = describe_import(spec.name, name, data_dir=data_dir)
    print_table(("key", "value"), flatten(about))
    if not about.get("on_disk", True):
        return

    from omrlbench.plots import dataset_figure
    from omrlbench.record import default_results_dir

    if name is None:
        dataset = load_dataset(spec.name, level, behavior=kind, data_dir=data_dir)
        returns = level_returns(dataset, data_dir, lambda line: click.echo(line, err=True))
    else:
        dataset = load_imported(spec.name, name, data_dir=data_dir)
        returns = {name: dataset.episodes()[2]}
    click.echo()
    print_task_returns(dataset)
    picture = (results_dir or default_results_dir()) / "datasets" / spec.name / f"{Path(about['id']).name}.png"
    dataset_figure(dataset, returns, picture)
    click.echo(f"picture: {picture}")


def print_task_returns(dataset: "MultiTaskDataset") -> None:
    """How much data each task has that has any, and the returns of its episodes."""
    import numpy as np

    tasks, lengths, returns = dataset.episodes()
    rows = []
    for task in np.unique(tasks):
        own = tasks == task
        splits = (split for split, ids in dataset.spec.tasks.splits.items() if task in ids)
        numbers = (f"{value:.2f}" for value in (returns[own].mean(), returns[own].min(), returns[own].max()))
        rows.append((str(task), ", ".join(splits), str(own.sum()), str(lengths[own].sum()), *numbers))
    header = ("task", "split", "episodes", "transitions", "mean return", "lowest", "highest")
    print_table(header, rows, numbers=header[2:])


@data.command(name="make")
@dataset_options
def make(env: str, level: str | None, behavior: str | None, data_dir: Path | None) -> None:
    """Make one dataset unless it is there already. `bench run` does so by itself."""
    from omrlbench.data.generate import make_dataset
    from omrlbench.data.identity import data_folder, dataset_id
    from omrlbench.progress import Bar

    spec, level, kind = spec_level_and_kind(env, level, behavior)
    with Bar() as bar:
        make_dataset(spec, level, kind, data_dir, on_progress=bar.update, on_message=bar.message)
    click.echo(f"dataset: {data_folder(dataset_id(spec, level, kind), data_dir).parent}")


@data.command()
@dataset_options
@import_option
def validate(env: str, level: str | None, behavior: str | None, data_dir: Path | None, name: str | None) -> None:
    """Check every array, episode and byte of one dataset."""
    from omrlbench.data.identity import dataset_id
    from omrlbench.data.importers import import_id, validate_import
    from omrlbench.data.validate import validate_dataset

    if name is None:
        spec, level, kind = spec_level_and_kind(env, level, behavior)
        validate_dataset(spec, level, kind, data_dir)
        dataset = dataset_id(spec, level, kind)
    else:
        spec = import_spec(env, level, behavior)
        validate_import(spec.name, name, data_dir=data_dir)
        dataset = import_id(spec, name)
    click.echo(f"{dataset}: no defect found")


@data.command(name="import")
@click.argument("format")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--env", required=True, help="Meta-environment, see bench list envs.")
@click.option("--name", required=True, help="What to call the dataset.")
@click.option("--allow-pickle", is_flag=True, help="Read pickles; whatever is not numbers in them is refused.")
@click.option("--by-number", is_flag=True, help="Take the source's task k as task k even if it is another.")
@click.option("--step", "steps", type=int, multiple=True, help="Training step of the policies (focal); repeatable.")
@click.option("--episodes", type=click.IntRange(1), help="So many of each task, evenly spaced.  [default: all]")
@click.option("--action-scale", type=click.FloatRange(0, min_open=True), help="Divides the source's actions.")
@click.option("--overwrite", is_flag=True, help="Replace a dataset of this name that is of other sources.")
@data_dir_option
def import_data(format: str, path: Path, env: str, name: str, data_dir: Path | None, **choices: Any) -> None:
    """Bring data that other programs have written into the store.

    FORMAT is focal, borel, macaw, mbml, metadt or d4rl; PATH is the folder that docs/datasets.md tells.
    """
    from omrlbench.data.identity import data_folder
    from omrlbench.data.importers import import_dataset, import_id
    from omrlbench.progress import Bar

    spec, _ = spec_and_kind(env, None)
    with Bar() as bar:
        omrl = import_dataset(format, path, spec.name, name, data_dir=data_dir, on_progress=bar.update, **choices)
    origin = omrl["origin"]
    tasks = {task["task"] for task in origin["tasks"]}
    click.echo(f"dataset: {data_folder(import_id(spec, name), data_dir).parent}")
    click.echo(f"{omrl['transitions']} transitions in {omrl['episodes']} episodes of {len(tasks)} tasks")
    for how in sorted({task["identified"] for task in origin["tasks"]}):
        click.echo(f"tasks identified {how}")
    for remark, count in origin["remarks"].items():
        click.echo(f"{count} {remark}")


@data.command()
@click.argument("env")
@behavior_option
@results_dir_option
def train_behavior(env: str, behavior: str | None, results_dir: Path | None) -> None:
    """Train the behaviour policies that are shipped (for maintainers; minutes to an hour on one core).

    Interrupt it whenever you like: the same command goes on from the last checkpoint.
    """
    from omrlbench.data.behavior import KINDS
    from omrlbench.data.checkpoints import make_checkpoints
    from omrlbench.errors import unknown
    from omrlbench.progress import Bar
    from omrlbench.record import default_results_dir

    spec, kind = spec_and_kind(env, behavior)
    if kind not in KINDS:
        raise unknown("behaviour kind", kind, KINDS)
    with Bar() as bar:

        def on_progress(step: int, steps: int, returns: dict[str, float]) -> None:
            bar.update(f"return {returns[spec.reward]:.2f}", step, steps)

        folder = (results_dir or default_results_dir()) / "behavior"
        path = make_checkpoints(spec, kind, folder, on_progress)
    click.echo(f"policies: {path}")


def print_datasets(data_dir: Path | None) -> None:
    from omrlbench.data.importers import list_imports
    from omrlbench.data.store import list_datasets

    rows = []
    for about in [*list_datasets(data_dir), *list_imports(data_dir)]:
        train = about.get("splits", {}).get("train")
        score = f"{train['normalized_score']:z.2f}" if train else ""
        rows.append((about["id"], about["level"], about["behavior"], score, about["state"]))
    print_table(("dataset", "level", "behaviour", "score of its data", "state"), rows)
