"""What records say: `bench report`, `figure` and `compare`."""

from collections.abc import Sequence
from pathlib import Path

import click

from omrlbench.terminal import kept_results_option, print_table

UNDECIDED = 5  # too few runs to compare


@click.command()
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
    from omrlbench.record import default_results_dir
    from omrlbench.report import stale_texts, write_page, write_report
    from omrlbench.verification import read_results

    if check and html:
        raise click.UsageError("--check is about the committed files, and the page of --html is none: leave out one.")
    board, differing = leaderboard(read_results(results_dir)), []
    if html:
        click.echo(write_page(board, results_dir, out or default_results_dir() / "report"))
    elif check:
        differing = stale_texts(board, out or Path("."))
    else:
        for path in write_report(board, out or Path(".")):
            click.echo(path)
    for path in differing:
        click.echo(f"{path} is not what {results_dir} gives: write it by bench report", err=True)
    for path, reason in board.results.refused.items():
        click.echo(f"refused: {results_dir / path} {reason}", err=True)
    return 2 if board.results.refused else 1 if differing else 0


@click.command()
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


@click.command()
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
@click.option("--protocol", help="To compare final parameters under: offline, offline_shifted, online.")
def compare(a: str, b: str, results_dirs: Sequence[Path], budget: str, protocol: str | None) -> int:
    """Compare the runs of A with those of B in every meta-environment that both have.

    A and B are methods, suites, or paths of records or of folders of them. The numbers are mean scores with Student's t
    interval, the probability that a run of A beats one of B, and the exact p of no difference.

    Methods that interact are scored under the protocol online, others under offline: --protocol takes one for both.

    Exit codes: 0 where A is better, or shows no difference that it could; 1 where A is worse (p < 0.05 over all common
    meta-environments together); 5 where the runs are too few for p < 0.05 whatever they score.
    """
    from omrlbench.compare import compare as compare_sides
    from omrlbench.leaderboard_texts import plus_minus, with_ends
    from omrlbench.record import default_results_dir

    folders = results_dirs or (default_results_dir(), Path("results/runs"))
    result = compare_sides(a, b, folders, budget, protocol)
    rows = [
        (c.column, plus_minus(c.a), plus_minus(c.b), " and ".join(map(str, c.improvement.n)), with_ends(c.improvement))
        + (f"{c.p:.2g}",)
        for c in result.columns
    ]
    click.echo(f"A: {a}\nB: {b}")
    if protocol:
        click.echo(f"scores of the final parameters under the protocol {protocol}")
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
