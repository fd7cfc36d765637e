"""The commands `bench` and `omrlbench`; what each does is in `commands`.

Only click is imported up here, so that `bench --help` answers at once.
"""

import sys
from collections.abc import Sequence

import click

from omrlbench.commands.data import data
from omrlbench.commands.lists import list_group
from omrlbench.commands.reports import compare, figure, report
from omrlbench.commands.runs import evaluate, run, show, view
from omrlbench.commands.suites import collect, status, sweep
from omrlbench.terminal import Verbs, complain

INTERRUPTED = 130


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
        return complain(f"{error.format_message()} See {_command_path(error)} --help.", error.exit_code)
    except click.Abort:
        return complain("interrupted", INTERRUPTED)
    except BenchError as error:
        return complain(str(error), error.exit_code)
    except OSError as error:
        reason = unusable_file(error)
        if reason is None:
            raise
        return complain(reason, 1)


def _command_path(error: click.UsageError) -> str:
    return error.ctx.command_path if error.ctx else "bench"


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="omrl-bench", message="%(version)s")
def cli() -> None:
    """Train and compare offline meta-reinforcement learning methods."""


for command in (run, evaluate, view, show, sweep, status, collect, report, figure, compare, list_group, data):
    cli.add_command(command)
