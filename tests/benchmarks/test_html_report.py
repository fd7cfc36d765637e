"""The page of `bench report --html`, made from real runs: what is in it, and how it behaves in a real browser."""

import html
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from omrlbench import training
from omrlbench.claims import PAPERS
from omrlbench.cli import main
from omrlbench.config import resolve
from omrlbench.envs.references import normalized_score
from omrlbench.html_report import page
from omrlbench.leaderboard import REFERENCE_ROWS, Leaderboard, leaderboard
from omrlbench.leaderboard_texts import cell_text
from omrlbench.verification import read_results

ENV = "sparse_point_robot"
COLUMN = (ENV, "expert")
RUNS = {"do_nothing": (0, 1), "random_policy": (0, 1, 7), "expert_policy": (0, 1)}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_dir) -> Path:
    """A results folder; returns are raised by some, so that seeds differ, and one processor is a script by name."""
    folder = tmp_path_factory.mktemp("runs")
    for algo, seeds in RUNS.items():
        for seed in seeds:
            training.run(resolve(ENV, algo, seed=seed), results_dir=folder, data_dir=data_dir)
            path = resolve(ENV, algo, seed=seed).record_path(folder)
            record = json.loads(path.read_text())
            raise_returns(record["result"], (1 + seed) / 8 if algo == "random_policy" else 0.0)
            if (algo, seed) == ("do_nothing", 0):
                record["execution"]["cpu"] = HOSTILE
            path.write_text(json.dumps(record))
    return folder


def raise_returns(result: dict, by: float) -> None:
    for evaluation in result["curve"] + result["evaluations"]:
        evaluation["returns"] = (np.array(evaluation["returns"]) + by).tolist()
        evaluation["score"] = normalized_score(ENV, evaluation["split"], float(np.mean(evaluation["returns"])))
    result["score"] = float(np.mean([e["score"] for e in result["evaluations"] if e["protocol"] == "offline"]))


@pytest.fixture(scope="module")
def board(runs) -> Leaderboard:
    return leaderboard(read_results(runs))


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page")
    assert bench("--results-dir", str(runs), "--out", str(out)) == 0
    return out / "index.html"


@pytest.fixture(scope="module")
def text(written) -> str:
    return written.read_text()


def bench(*more: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["report", "--html", *more])
    return stop.value.code


def commands(text: str) -> list[str]:
    return [html.unescape(code) for code in re.findall(r"<pre><code>(.*?)</code></pre>", text)]


def test_every_cell_has_the_leaderboards_number(text, board):
    found = re.findall(r'<span class="value">([^<]*)</span>\s*<span class="small"><span class="seeds">([^<]*)<', text)
    expected = [cell_text(board.cells[column, method]) for method in board.methods for column in board.columns]
    shown = []
    for value, seeds in found:
        marks = "".join(f" {mark}" for mark in "†‡" if mark in value)
        shown.append(f"{value.removesuffix(marks)} ({seeds}){marks}")
    assert shown == expected and sum("n = " in cell for cell in shown) == len(RUNS)


def test_differences_are_those_of_the_common_seeds(text, board):
    (stored,) = re.findall(r'<script type="application/json" id="comparisons">(.*?)</script>', text)
    comparisons, place = json.loads(stored), board.columns.index(COLUMN)
    assert comparisons.keys() == {"", *RUNS}
    for reference in RUNS:
        for method in RUNS.keys() - {reference}:
            first, second = board.scores(COLUMN, method), board.scores(COLUMN, reference)
            common = sorted(first.keys() & second.keys())
            changes = np.array([first[seed] - second[seed] for seed in common])
            value, shown, seeds, verdict = comparisons[reference][method][place]
            half = float(shown.split()[2])
            assert value == pytest.approx(changes.mean()) and float(shown.split()[0]) == pytest.approx(value, abs=6e-4)
            assert seeds == f"n = {len(common)}"
            assert verdict == ("" if abs(value) <= half else "better" if value > 0 else "worse")
        assert comparisons[reference]["focal"][place][:2] == [None, "–"]
        assert comparisons[reference][reference][place][0] == 0.0


def test_claims_stand_there_with_the_runs_they_are_about(text):
    claims = {f"claim-{paper.name}-{n}": claim for paper in PAPERS for n, claim in enumerate(paper.claims, 1)}
    assert re.findall(r'<dialog id="(claim-[^"]*)"', text) == list(claims)
    for anchor, claim in claims.items():
        (dialog,) = re.findall(rf'<dialog id="{anchor}" .*?</dialog>', text, re.DOTALL)
        assert html.escape(str(claim)) in dialog and "not yet run</strong> at the cpu" in dialog
        sides = [f"{side} on {env}: " for env in claim.envs for side in (claim.better, claim.worse)]
        assert re.findall(r"<li>(.*?)<strong>no runs", dialog) == sides


def test_every_paper_and_every_ranking_has_a_part(text):
    for paper in PAPERS:
        assert f"<h3>{paper.name}</h3>" in text and html.escape(paper.title) in text
    for kind in ("interaction", "logs and reward-free interaction", "logs"):
        (part,) = re.findall(rf"<h3>From {kind}</h3>(.*?)<h3>", text, re.DOTALL)
        assert part.count("<table") == 2 and "random_<wbr>policy" in part
    (gap,) = re.findall(r"<h3>The gap between contexts</h3>.*?</table>", text, re.DOTALL)
    assert gap.count(">change<") == 4 and gap.count("smac_<wbr>offline") == 6  # `online`, `online_mixed`; 2 controls


def test_values_of_records_are_escaped(text):
    assert HOSTILE not in text and "<script>alert" not in text and "<img src=x" not in text
    assert text.count(html.escape(HOSTILE)) == 2  # in the run's dialog, and in the table of processors


def test_the_page_is_a_function_of_the_records_and_needs_no_network(text, board, runs):
    assert page(board, runs) == text
    assert text.count('src="data:image/svg+xml;base64,') == 5
    assert not re.search(r'(?:src|href)="(?!data:|#)', text) and "@import" not in text and "fetch(" not in text


def test_commands_repeat_the_runs_they_stand_with(text, board, runs):
    found = [shlex.split(command) for command in commands(text)]
    repeated = {Path(words[3]) for words in found if words[:3] == ["bench", "run", "--from"]}
    assert repeated == set(runs.rglob("seed-?.json"))
    anew = [dict(zip(words[2::2], words[3::2], strict=True)) for words in found if words[2] == "--algo"]
    made = set()
    for options in anew:
        named = {key.removeprefix("--"): value for key, value in options.items()}
        config = resolve(named.pop("env"), named.pop("algo"), seed=int(named.pop("seed")), **named)
        made.add(config.record_path(runs))
    assert made == repeated
    sweeps = {words[4] for words in found if words[:3] == ["bench", "sweep", "core"]}
    incomplete = {(m, env) for ((env, _), m), cell in board.cells.items() if set(cell.promised) - cell.runs.keys()}
    assert sweeps == {f"algo={method},env={env}" for method, env in incomplete}


def test_a_page_without_any_run(tmp_path, capsys, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMRLBENCH_RESULTS_DIR", raising=False)
    assert bench("--results-dir", "runs") == 0
    written = Path("results/local/report/index.html")
    assert capsys.readouterr().out == f"{written}\n"
    assert "n = " not in "".join(re.findall(r'<span class="seeds">([^<]*)<', written.read_text()))


def test_wrong_calls_and_refused_records(runs, tmp_path, capsys):
    assert bench("--check") == 2 and "leave out one" in capsys.readouterr().err
    folder = Path(shutil.copytree(runs, tmp_path / "runs"))
    path = resolve(ENV, "random_policy").record_path(folder)
    assert bench("--results-dir", str(folder), "--out", str(path)) == 1
    assert capsys.readouterr().err == f"bench: cannot use {path}: File exists\n"
    path.write_text(path.read_text()[:-100])
    assert bench("--results-dir", str(folder), "--out", str(tmp_path)) == 2
    assert f"refused: {path} " in capsys.readouterr().err
    assert path.name in (tmp_path / "index.html").read_text().split("Refused, not as their run wrote them")[1]


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[dev]'")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, written) -> Iterator:
    """Opens the page in a window of its own; nothing may be logged, asked for or fetched until the test's end."""
    windows, complaints = [], []

    def visit(width: int = 1280, scheme: str = "light"):
        window = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        windows.append(window)
        window.on("console", lambda message: complaints.append(message.text))
        window.on("pageerror", lambda error: complaints.append(str(error)))
        window.on("dialog", lambda dialog: complaints.append(dialog.message) or dialog.dismiss())
        window.on("request", lambda request: complaints.append(request.url))
        window.goto(written.as_uri())
        return window

    yield visit
    for window in windows:
        window.close()
    assert [one for one in complaints if not one.startswith("data:") and one != written.as_uri()] == []


def shown_methods(window) -> list[str]:
    return window.eval_on_selector_all("#leaderboard tbody tr:not([hidden])", "rows => rows.map(r => r.dataset.method)")


def header(window, place: int):
    return window.locator("#leaderboard thead th").nth(place)


def cell(window, method: str, place: int):
    return window.locator(f"#leaderboard tr[data-method={method}] > *").nth(place)


def background(window, selector: str) -> tuple[int, ...]:
    colour = window.eval_on_selector(selector, "element => getComputedStyle(element).backgroundColor")
    return tuple(map(int, re.findall(r"\d+", colour)[:3]))


def test_columns_sort_both_ways_with_holes_last(opened, board):
    window, place = opened(), board.columns.index(COLUMN) + 1
    means = {method: np.mean(list(board.scores(COLUMN, method).values())) for method in RUNS}
    best = sorted(means, key=means.get, reverse=True)
    without = [method for method in board.methods if method not in RUNS]
    assert shown_methods(window) == board.methods
    header(window, place).get_by_role("button").click()
    assert shown_methods(window) == best + without
    assert header(window, place).get_attribute("aria-sort") == "descending"
    header(window, place).get_by_role("button").press("Enter")
    assert shown_methods(window) == best[::-1] + without
    assert header(window, place).get_attribute("aria-sort") == "ascending"
    header(window, 0).get_by_role("button").press("Space")
    assert shown_methods(window) == sorted(board.methods)
    assert header(window, place).get_attribute("aria-sort") is None
    window.get_by_role("button", name="Reset").click()
    window.wait_for_function("document.querySelectorAll('#leaderboard [aria-sort]').length === 0")
    assert shown_methods(window) == board.methods


def test_rows_and_columns_are_filtered_and_told(opened, board):
    window = opened()
    window.get_by_label("Find a method").fill("Policy")
    assert shown_methods(window) == ["random_policy", "expert_policy"]
    assert window.get_by_role("status").inner_text().startswith("2 of 13 rows, 7 of 7 meta-environments.")
    window.get_by_label("Find a method").fill("")
    window.get_by_label("Rows").select_option("methods")
    assert shown_methods(window) == [method for method in board.methods if method not in REFERENCE_ROWS]
    window.get_by_label("Rows").select_option("reference rows")
    assert shown_methods(window) == [method for method in board.methods if method in REFERENCE_ROWS]
    window.get_by_role("checkbox", name="cheetah_vel").uncheck()
    place = board.columns.index(("cheetah_vel", "expert")) + 1
    assert not header(window, place).is_visible() and not cell(window, "do_nothing", place).is_visible()
    assert header(window, place - 1).is_visible() and cell(window, "do_nothing", place - 1).is_visible()
    assert "6 of 7 meta-environments" in window.get_by_role("status").inner_text()


def test_methods_are_compared_with_the_chosen_one(opened, board):
    window, place = opened(), board.columns.index(COLUMN) + 1
    plain = cell(window, "do_nothing", place).inner_text()
    window.get_by_label("Compare with").select_option("random_policy")
    scores = [board.scores(COLUMN, method) for method in ("do_nothing", "random_policy")]
    change = np.mean([scores[0][seed] - scores[1][seed] for seed in (0, 1)])
    assert cell(window, "do_nothing", place).locator(".value").inner_text().startswith(f"{change:+.3f} ± ")
    assert "n = 2" in cell(window, "do_nothing", place).inner_text()
    assert "Differences to random_policy" in window.get_by_role("status").inner_text()
    header(window, place).get_by_role("button").click()
    assert shown_methods(window)[0] == "expert_policy"
    assert "better" in cell(window, "expert_policy", place).inner_text()
    window.get_by_role("button", name="Reset").click()
    window.wait_for_function("!document.getElementById('state').textContent.includes('Differences')")
    assert cell(window, "do_nothing", place).inner_text() == plain


def test_a_run_is_told_by_keyboard_alone(opened, runs):
    window = opened()
    window.keyboard.press("Tab")
    assert window.evaluate("document.activeElement.textContent") == "Skip to the content"
    window.keyboard.press("Enter")
    window.get_by_role("button", name="Reset").focus()
    for _ in range(300):
        window.keyboard.press("Tab")
        focused = window.evaluate("document.activeElement.closest('button')?.textContent ?? ''")
        if "do_nothing on sparse_point_robot" in focused:
            break
    window.keyboard.press("Enter")
    dialog = window.get_by_role("dialog", name="do_nothing on sparse_point_robot, expert data")
    assert window.evaluate("document.querySelector('dialog[open]').contains(document.activeElement)")
    told = dialog.inner_text()
    record = json.loads(resolve(ENV, "do_nothing").record_path(runs).read_text())
    assert record["config"]["dataset"]["content"] in told and HOSTILE in told
    assert f"bench run --from {resolve(ENV, 'do_nothing').record_path(runs)}" in told
    assert "bench run --algo do_nothing --env sparse_point_robot --level expert --budget cpu --seed 0" in told
    for _ in range(10):
        window.keyboard.press("Tab")
        if "seed 1: " in window.evaluate("document.activeElement.textContent"):
            break
    window.keyboard.press("Enter")
    assert "--budget cpu --seed 1" in dialog.inner_text()
    window.keyboard.press("Escape")
    assert dialog.count() == 0 and window.evaluate("document.activeElement.textContent") == focused


def test_a_claim_shows_its_evidence_and_closes_beside_it(opened):
    window = opened()
    window.locator("button[aria-controls=claim-FOCAL-1]").click()
    assert "batch_pearl on cheetah_vel: no runs" in window.get_by_role("dialog").inner_text()
    window.mouse.click(5, 5)
    assert window.get_by_role("dialog").count() == 0


def test_dark_mode_follows_the_system_and_the_button(opened):
    light, dark = opened(), opened(scheme="dark")
    assert min(background(light, "body")) > 200 and max(background(dark, "body")) < 60
    button = dark.get_by_role("button", name="Dark theme")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert button.get_attribute("aria-pressed") == "false" and background(dark, "body") == background(light, "body")
    assert min(background(dark, "figure")) == 255  # figures are drawn for a light ground
    light.emulate_media(color_scheme="dark")
    light.locator("#theme[aria-pressed=true]").wait_for()
    assert background(light, "body") != background(dark, "body")


@pytest.mark.parametrize("width, scheme", [(380, "dark"), (1280, "light")])
def test_the_page_fits_and_axe_finds_nothing(opened, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe: pip install -e '.[dev]'").Axe()
    window = opened(width, scheme)

    def check() -> None:
        assert window.evaluate("document.documentElement.scrollWidth") == width
        response = axe.run(window).response
        assert response["passes"] and [violation["id"] for violation in response["violations"]] == []

    check()
    window.get_by_label("Compare with").select_option("random_policy")
    check()
    window.locator("#leaderboard tr[data-method=do_nothing] button").first.click()
    panel = window.get_by_role("dialog").bounding_box()
    assert panel["x"] >= 0 and panel["x"] + panel["width"] <= width
    check()
