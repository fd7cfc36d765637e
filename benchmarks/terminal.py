"""What the commands share: options, groups that know their verbs, tables. Imports nothing heavy."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 160  # columns where the output is no terminal


class Verbs(click.Group):
    """A group that answers an unknown command with the ones that exist."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from omrlbench.errors import unknown

        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise unknown(f"command of {ctx.command_path}", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


def options(*decorators: Callable) -> Callable:
    """Several click options as one decorator, in the order in which help shows them."""

    def decorate(command: Callable) -> Callable:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


behavior_option = click.option(
    "--behavior",
    metavar="KIND",
    help="Behaviour policies: per_task or conditioned.  [default: the environment's]",
)
level_option = click.option(
    "--level", help="Data quality: random, medium, expert or mixed; by default the environment's."
)
data_dir_option = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Where datasets are kept.  [default: Minari's]"
)
results_dir_option = click.option(
    "--results-dir", type=click.Path(path_type=Path), help="Where results go.  [default: results/local]"
)


def kept_results_option(help: str) -> Callable:
    """Of the commands that read, or add to, the records that are kept."""
    return click.option(
        "--results-dir", type=click.Path(path_type=Path), default=Path("results/runs"), show_default=True, help=help
    )


def complain(message: str, exit_code: int) -> int:
    """One line on standard error; the exit code."""
    click.echo(f"bench: {message}", err=True)
    return exit_code


def flatten(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as rows (dotted key, value)."""
    rows = []
    for key, value in table.items():
        nested = isinstance(value, Mapping)
        rows += flatten(value, f"{prefix}{key}.") if nested else [(f"{prefix}{key}", str(value))]
    return rows


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[str] = ()) -> None:
    """Columns named in `numbers` are aligned to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold", justify="right" if name in numbers else "left")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def console() -> "Console":
    from rich.console import Console

    found = Console(highlight=False, markup=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, width=PIPE_WIDTH)
