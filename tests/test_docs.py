"""What the README promises is what continuous integration runs and what the code does."""

import re
import shlex
from pathlib import Path

import click
import pytest
import torch

from omrlbench.algorithms.algorithm import Context, MetaBatch, Problem
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


@pytest.mark.parametrize("command", [c for c in DOCUMENTED if c.startswith(("run ", "show "))])
def test_documented_run_resolves(command):
    from omrlbench.config import resolve

    elsewhere = ("results_dir", "data_dir", "overwrite")
    params = parse(shlex.split(command)).params
    resolve(**{key: value for key, value in params.items() if key not in elsewhere})


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files(name):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / name).read_text()):
        assert (ROOT / target).exists(), target


def test_readme_method_learns_and_adapts():
    (source,) = blocks(README, "python")
    namespace = {}
    exec(compile(source, "README.md", "exec"), namespace)
    method = namespace["Clone"]
    learner = method(Problem(2, 2, 2, 4), method.Config(), seed=0)
    torch.manual_seed(0)
    context = Context(torch.randn(4, 5, 2), torch.randn(4, 5, 2), torch.randn(4, 5), torch.randn(4, 5, 2))
    observations, rewards = torch.randn(4, 8, 2), torch.zeros(4, 8)
    actions = observations.tanh()
    batch = MetaBatch(observations, actions, rewards, observations, rewards, (context, context))
    losses = [float(learner.update(batch)["clone_loss"]) for _ in range(50)]
    assert losses[-1] < losses[0] / 2
    assert learner.adapt(context).act(torch.zeros(4, 2)).shape == (4, 2)
