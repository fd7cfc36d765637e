"""What the README promises is what continuous integration runs and what the code does."""

import re
import shlex
from pathlib import Path

import click
import pytest

from omrlbench.cli import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def bench_commands(text: str) -> list[str]:
    """The arguments of every `bench` call in the text's shell blocks."""
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    return [match[1] for line in lines if (match := re.search(r"(?:^|/)bench (.*)", line))]


def parse(arguments: list[str]) -> click.Context:
    """The context of the innermost command; raises where click would refuse."""
    context = cli.make_context("bench", list(arguments))
    while isinstance(context.command, click.Group):
        words = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, words)
        context = command.make_context(name, rest, parent=context)
    return context


DOCUMENTED = sorted(
    {
        command
        for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
        for command in bench_commands(path.read_text())
    }
)


def test_ci_calls_the_readme_test_command_first():
    (command,) = (block.strip() for block in blocks(README, "bash") if block.strip().endswith("pytest"))
    script = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    commands = [line for line in script if line and not line.startswith(("#", "set ", "cd "))]
    assert commands[0] == command


def test_ci_script_is_executable():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("command", DOCUMENTED)
def test_documented_command_parses(command):
    parse(shlex.split(command))


ELSEWHERE = {"nearest_action", "sliding_block"}  # names of other packages, see test_plugin
RESOLVED = [c for c in DOCUMENTED if c.startswith(("run ", "show ")) and not (ELSEWHERE | {"--from"}) & set(c.split())]


@pytest.mark.parametrize("command", RESOLVED)
def test_documented_run_resolves(command):
    from omrlbench.config import resolve

    elsewhere = ("source", "results_dir", "data_dir", "overwrite", "tensorboard", "wandb")
    params = parse(shlex.split(command)).params
    resolve(**{key: value for key, value in params.items() if key not in elsewhere})


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files(name):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / name).read_text()):
        assert (ROOT / target).exists(), target


def test_readme_method_learns_in_a_run(tmp_path, data_dir, monkeypatch):
    from omrlbench import registry, training
    from omrlbench.config import resolve

    (source,) = blocks(README, "python")
    (tmp_path / "readme_method.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.ALGORITHMS, "clone", "readme_method:Clone")
    config = resolve("sparse_point_robot", "clone", budget="smoke")
    record = training.run(config, results_dir=tmp_path / "results", data_dir=data_dir)
    losses = [point["metrics"]["clone_loss"] for point in record.result["curve"]]
    assert record.status == "finished" and losses[-1] < losses[0]
