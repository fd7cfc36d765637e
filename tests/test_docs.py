"""What the documents promise is what the code does: commands, code, links, and a page for every name."""

import re
import shlex
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree

import click
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled

from omrlbench import registry
from omrlbench.cli import cli, main
from omrlbench.envs.registry import META_ENVS
from omrlbench.evaluation import PROTOCOLS
from omrlbench.reevaluation import finished_run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    *(ROOT / name for name in ("README.md", "BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
]
ALGORITHMS, ENVIRONMENTS, PROTOCOL_PAGES = (
    ROOT / "docs" / name for name in ("algorithms", "environments", "protocols")
)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


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


DOCUMENTED = sorted({command for page in PAGES for command in bench_commands(page.read_text())})


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


def is_quick(command: str) -> bool:
    """Whether the command takes seconds, on this repository's records and small data: it only looks, or is a smoke run.

    All others train, generate or draw for minutes, or work on somebody's files.
    """
    verb, *words = command.split()
    if ELSEWHERE & {*words} or "results/local" in command:
        return False
    if verb == "data":
        return words[0] in ("list", "show", "validate") or words[:2] == ["make", "sparse_point_robot"]
    return verb in ("list", "show", "status", "compare") or "--dry-run" in words or "--budget smoke" in command


@pytest.fixture(scope="module")
def own_data(data_dir, tmp_path_factory) -> str:
    """A copy of the datasets, to which documents may add."""
    return str(copytree(data_dir, tmp_path_factory.mktemp("documented") / "data"))


@pytest.mark.parametrize("command", [command for command in DOCUMENTED if is_quick(command)])
def test_documented_command_that_is_quick_works(command, own_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMRLBENCH_RESULTS_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", own_data)
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(command))
    told = capsys.readouterr()
    assert stopped.value.code in ((0, 1, 5) if command.startswith("compare") else (0,)), told.err
    assert told.out


@pytest.mark.parametrize("record", sorted({word for c in DOCUMENTED for word in c.split() if word.endswith(".json")}))
def test_documented_record_is_there_and_can_be_used(record):
    found = sorted(ROOT.glob(record.replace("results/local", "results/runs")))
    assert found
    finished_run(found[0])


def test_documented_modules_are_there():
    modules = {name for page in PAGES for name in re.findall(r"python -m (omrlbench[\w.]+)", page.read_text())}
    assert modules and all(find_spec(module) for module in modules)


def python_blocks() -> list:
    """Every Python block that is no file of a package, the others being tested as packages: here and in test_plugin."""
    found = []
    for page in PAGES:
        for number, block in enumerate(blocks(page.read_text(), "python")):
            if not re.match(r"# \S+\.py\n", block):
                found.append(pytest.param(block, id=f"{name_of(page)}-{number}"))
    return found


@pytest.mark.parametrize("block", python_blocks())
def test_documented_code_runs(block, own_data, tmp_path, monkeypatch, capsys):
    """With the data that the pages have made or imported before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", own_data)
    if "load_imported" in block:
        import_focal_data()
    capsys.readouterr()
    try:
        exec(compile(block, "documented", "exec"), {})
    except DependencyNotInstalled as error:
        pytest.skip(f"no OpenGL here: {error}")
    printed = capsys.readouterr().out
    for shape in re.findall(r"^print\(.*\)  # ((?:torch\.Size)?\(.*\))$", block, re.MULTILINE):
        assert shape in printed.splitlines()


def import_focal_data() -> None:
    """An episode in the form of the FOCAL authors, imported as docs/datasets.md says."""
    (command,) = (command for command in DOCUMENTED if command.startswith("data import focal"))
    params = parse(shlex.split(command)).params
    env = META_ENVS[params["env"]].make(0)
    (observation, _), transitions = env.reset(seed=0), []
    env.action_space.seed(0)
    for _ in range(META_ENVS[params["env"]].horizon):
        action = env.action_space.sample()
        after, reward, *_ = env.step(action)
        transitions.append((observation, action, reward, after))
        observation = after
    table = np.empty((len(transitions), 4), object)
    for row, transition in enumerate(transitions):
        table[row] = transition
    folder = Path(params["path"]) / "goal_idx0"
    folder.mkdir(parents=True)
    np.save(folder / f"trj_evalsample0_step{params['steps'][0]}.npy", table)
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(command))
    assert stopped.value.code == 0


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    found, seen = set(), Counter()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        assert not anchor or anchor in slugs(file), f"{target}#{anchor}"


def test_every_method_has_a_row_in_the_index_that_leads_to_where_it_is_named():
    rows = re.findall(r"^\| `(\w+)` \|.*\[.*\]\(([\w.]+)", (ALGORITHMS / "README.md").read_text(), re.MULTILINE)
    assert [name for name, _ in rows] and {name for name, _ in rows} == {*registry.ALGORITHMS, *registry.VARIANTS}
    for name, page in rows:
        text = (ALGORITHMS / page).read_text()
        assert re.search(rf"`{name}`|# {name}\b|--algo {name}\b", text), (name, page)


def test_every_meta_environment_has_a_page_with_its_numbers():
    assert {page.stem for page in ENVIRONMENTS.glob("*.md")} == set(META_ENVS)
    for name, spec in META_ENVS.items():
        text = (ENVIRONMENTS / f"{name}.md").read_text()
        numbers = [len(spec.tasks.splits[split]) for split in ("train", "validation", "test")]
        counts = " / ".join(map(str, numbers)) if numbers[1] else f"{numbers[0]} / 0 / the same {numbers[2]}"
        facts = (f"`{spec.gym_id}`", f"{spec.horizon} steps", f"{counts}, task set `{spec.task_set}`")
        for fact in (*facts, f"| level by default | `{spec.default_level}` |"):
            assert fact in text, (name, fact)


def test_every_protocol_has_a_page():
    assert {page.stem for page in PROTOCOL_PAGES.glob("*.md")} == set(PROTOCOLS)


@pytest.mark.skipif(find_spec("material") is None, reason="the extra docs is not installed")
def test_the_site_is_built_with_every_page_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    addresses = [re.sub(r"(README)?\.md$", "", name_of(page)).rstrip("/") for page in PAGES]
    built = {path.relative_to(tmp_path).parent.as_posix() for path in tmp_path.rglob("index.html")}
    assert built == {address or "." for address in addresses}
    pages = [path.read_text() for path in tmp_path.rglob("*.html")]
    loaded = {
        url for text in pages for url in re.findall(r"<(?:script|img|link rel=\"stylesheet\")[^>]*?\"(http.*?)\"", text)
    }
    assert not loaded
    assert (tmp_path / "results" / "leaderboard.csv").exists()
    assert any(path.suffix == ".svg" for path in (tmp_path / "results" / "figures").iterdir())


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
