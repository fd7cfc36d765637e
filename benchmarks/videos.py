"""Videos of a recorded run: its method in chosen tasks next to the expert, both from the same start.

Shown is the first episode of the run's last evaluation in each task, replayed action by action.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain, repeat
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image, ImageDraw, ImageFont, ImageOps

from omrlbench.config import RunConfig
from omrlbench.envs.point_robot import GOAL_RADIUS, goals_and_winds
from omrlbench.envs.registry import MetaEnvSpec
from omrlbench.errors import BenchError
from omrlbench.evaluation import Evaluation, evaluate, reset_seed
from omrlbench.plots import BLUE, GREEN, PARAMETERS_SHOWN, task_colours
from omrlbench.process import deterministic
from omrlbench.record import write_atomic
from omrlbench.reevaluation import finished_run, last_evaluation, trained
from omrlbench.registry import meta_env
from omrlbench.run_data import load_own
from omrlbench.weights import stored_scaling

PANEL = 480  # pixels, of both sides
LINE = 26  # pixels, the height of a line of text
LINES = 4  # above the pictures
MARGIN = 4  # pixels above the first line: the whole is a multiple of 16 high, as codecs want it
FONT_SIZE = 18
HOLD = 1.0  # seconds that the end of an episode stays
LARGEST_RATE = {".mp4": 33.0, ".gif": 12.5}  # pictures per second; those of a gif are kept in memory
PLANE_MARGIN = 0.3
ARROW = 10  # times the wind


@dataclass(frozen=True)
class Shown:
    """What a video shows of one task: the returns of the method's and the expert's episode."""

    task: int
    method: float
    expert: float


@dataclass(frozen=True)
class Moment:
    """One robot after `step` steps: the return so far, how its episode ended, if it did, and what to draw.

    `path` (step + 1, observation_dim); `picture` (height, width, 3) uint8, None of point robots.
    """

    step: int
    earned: float
    ended: str
    path: np.ndarray
    picture: np.ndarray | None


Act = Callable[[np.ndarray, int], np.ndarray]  # of an observation, and of the steps before it


def default_path(record: Path, results_dir: Path) -> Path:
    """Where the video of the run with this record goes."""
    _, config = finished_run(record)
    return results_dir / "videos" / ("-".join(config.record_path(Path()).with_suffix("").parts) + ".mp4")


def make_video(
    record: Path,
    out: Path,
    tasks: Sequence[int] = (),
    *,
    overwrite: bool = False,
    data_dir: str | Path | None = None,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    on_message: Callable[[str], None] = lambda message: None,
) -> list[Shown]:
    """Write the video of the run with this record, in `tasks` one after the other; by default in three.

    Raises BenchError, one line, where the file cannot be made: a wrong ending, an existing file, a missing package,
    a task that the run was not evaluated in, no weights beside the record, or no OpenGL.
    """
    check_target(out, overwrite)
    about, config = finished_run(record)
    spec = meta_env(config.env)
    chosen = choose_tasks(spec, config.eval_split, tasks)
    rate, every = pace(spec, chosen[0], out.suffix)
    with deterministic():
        own = load_own(config, data_dir, on_progress, on_message, scaling=stored_scaling(record))
        on_progress("evaluating", 0, 1)
        algorithm, index = trained(config, own, record), last_evaluation(about)
        sizes = config.training.final_eval_episodes, config.seed, index, config.algorithm.context_size
        evaluation = evaluate(algorithm, own, config.eval_split, *sizes, about.protocol)
    shown: list[Shown] = []

    def frames() -> Iterator[Image.Image]:
        for number, task in enumerate(chosen):
            place, start = evaluation.task_ids.index(task), reset_seed(config.seed, index, task, 0)
            for moments in side_by_side(spec, task, start, evaluation.actions[place, 0], every):
                done = number * spec.horizon + max(moment.step for moment in moments)
                on_progress(f"drawing task {task}", done, len(chosen) * spec.horizon)
                yield (last := draw(config, about.protocol, task, moments, evaluation))
            yield from repeat(last, round(HOLD * rate))
            shown.append(Shown(task, *(moment.earned for moment in moments)))

    with TemporaryDirectory() as folder:
        whole = Path(folder) / out.name
        WRITERS[out.suffix](whole, frames(), rate)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, whole.read_bytes())
    return shown


def check_target(out: Path, overwrite: bool) -> None:
    if out.suffix not in WRITERS:
        raise BenchError(f"{out} ends in neither of {', '.join(WRITERS)}: give --out one of them")
    if out.suffix == ".mp4" and find_spec("imageio_ffmpeg") is None:
        raise BenchError(
            "imageio-ffmpeg is not installed, which writes .mp4: pip install 'omrl-bench[video]', or --out FILE.gif"
        )
    if out.exists() and not overwrite:
        raise BenchError(f"{out} exists: add --overwrite, or --out for another place")


def choose_tasks(spec: MetaEnvSpec, split: str, wanted: Sequence[int]) -> list[int]:
    """`wanted`, each once, or the tasks of `split` with the lowest, the middle and the highest parameter."""
    there = spec.tasks.splits[split]
    for task in wanted:
        if task not in there:
            raise BenchError(f"{task} is no {split} task of {spec.name}: choose from {', '.join(map(str, there))}")
    if wanted:
        return list(dict.fromkeys(wanted))
    values = task_colours(spec).values
    ordered = sorted(there, key=lambda task: values[task])
    return list(dict.fromkeys(ordered[k] for k in (0, len(ordered) // 2, -1)))


def pace(spec: MetaEnvSpec, task: int, suffix: str) -> tuple[float, int]:
    """Pictures per second, and steps per picture, so that time runs as it does in the world."""
    env = spec.make(task)
    about = env.metadata
    env.close()
    if not spec.plane and "rgb_array" not in about.get("render_modes", ()):
        raise BenchError(f"{spec.name} draws no pictures: its environment has no render mode rgb_array")
    steps = about.get("render_fps", 10)
    every = ceil(steps / LARGEST_RATE[suffix])
    return steps / every, every


def side_by_side(
    spec: MetaEnvSpec, task: int, start: int, actions: np.ndarray, every: int
) -> Iterator[tuple[Moment, Moment]]:
    """The method, whose `actions` (horizon, action_dim) are known, and the expert, every `every` steps and at the end.

    Who ends first waits for the other.
    """
    controller = spec.oracle_policy([task])
    acts: tuple[Act, Act] = (lambda _, step: actions[step], lambda observation, _: controller(observation[None])[0])
    envs = [spec.make(task, render_mode=None if spec.plane else "rgb_array") for _ in acts]
    players = [play(env, start, act, every) for env, act in zip(envs, acts, strict=True)]
    now = [next(player) for player in players]
    try:
        yield tuple(now)
        while not all(moment.ended for moment in now):
            now = [next(player, moment) for player, moment in zip(players, now, strict=True)]
            yield tuple(now)
    finally:
        for env in envs:
            env.close()


def play(env: gymnasium.Env, start: int, act: Act, every: int) -> Iterator[Moment]:
    """One episode from the seed `start`: its beginning, every `every`-th step, and its end."""
    observation, _ = env.reset(seed=start)
    path, earned, ended = [observation], 0.0, ""
    yield Moment(0, earned, ended, np.array(path), picture(env))
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(act(observation, len(path) - 1))
        path.append(observation)
        earned += reward
        ended = "fallen" if terminated else "time is up" if truncated else ""
        step = len(path) - 1
        if ended or step % every == 0:
            yield Moment(step, earned, ended, np.array(path), picture(env))


def picture(env: gymnasium.Env) -> np.ndarray | None:
    try:
        return env.render() if env.render_mode else None
    except DependencyNotInstalled as error:
        raise BenchError(str(error)) from error


def draw(
    config: RunConfig, protocol: str, task: int, moments: tuple[Moment, Moment], evaluation: Evaluation
) -> Image.Image:
    """One picture of the video: what it shows, then the method on the left and the expert on the right."""
    spec, top = meta_env(config.env), LINES * LINE + 2 * MARGIN
    image = Image.new("RGB", (2 * PANEL, top + PANEL), "white")
    write, font = ImageDraw.Draw(image).text, ImageFont.load_default(FONT_SIZE)
    title = f"{config.env}, {config.eval_split} task {task}: {parameters_of(spec, task)}"
    about = (
        f"{config.algo}, {config.level} data, {config.budget} budget, seed {config.seed}; "
        f"{protocol} context of {config.algorithm.context_size} transitions"
    )
    for line, text in enumerate((title, about)):
        write((PANEL, MARGIN + (line + 0.5) * LINE), text, "black", font, "mm")
    sides = zip((config.algo, "expert, who is told the task"), (BLUE, GREEN), moments, strict=True)
    for side, (name, colour, moment) in enumerate(sides):
        state = f"step {moment.step} of {spec.horizon}{', fallen' if moment.ended == 'fallen' else ''}"
        for line, text in enumerate((name, f"return {moment.earned:z.2f}   {state}"), start=2):
            write(((side + 0.5) * PANEL, MARGIN + (line + 0.5) * LINE), text, to_hex(colour), font, "mm")
    if spec.plane:
        everything = evaluation.observations[evaluation.task_ids.index(task), 0]
        image.paste(Image.fromarray(draw_plane(spec, task, moments, everything)), (0, top))
        return image
    for side, moment in enumerate(moments):
        panel = ImageOps.pad(Image.fromarray(moment.picture), (PANEL, PANEL), color="white")
        image.paste(panel, (side * PANEL, top))
    ImageDraw.Draw(image).line([(PANEL, top), (PANEL, top + PANEL)], "white", 4)
    return image


def parameters_of(spec: MetaEnvSpec, task: int) -> str:
    names, values = spec.tasks.parameter_names, spec.tasks.parameters[task]
    if 1 < len(names) <= PARAMETERS_SHOWN:
        return ", ".join(f"{name} {value:z.3f}" for name, value in zip(names, values, strict=True))
    one = task_colours(spec)
    return f"{one.label} {one.values[task]:z.3g}"


def draw_plane(spec: MetaEnvSpec, task: int, moments: tuple[Moment, Moment], whole_path: np.ndarray) -> np.ndarray:
    """Both point robots on the plane, uint8 of shape (PANEL, 2 PANEL, 3). `whole_path` (n, 2) has to fit in."""
    goals, winds = goals_and_winds(spec, range(len(spec.tasks)))
    figure = Figure(figsize=(2 * PANEL / 100, PANEL / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.08, 0.11, 0.9, 0.86))
    places = np.concatenate([goals, whole_path, np.zeros((1, 2))])
    low, high = places.min(0) - PLANE_MARGIN, places.max(0) + PLANE_MARGIN
    sides = np.array([axes.bbox.width, axes.bbox.height])
    half = (sides * max((high - low) / sides) / 2)[:, None] * (-1, 1)  # one unit is as long on both axes
    xlim, ylim = (low + high)[:, None] / 2 + half
    axes.set(xlim=xlim, ylim=ylim, xlabel="x", ylabel="y")
    others = np.unique(goals, axis=0)
    if len(others) > 1:
        axes.scatter(*others.T, s=14, color="0.8", label="goals of all tasks")
    if spec.reward == "sparse":
        axes.add_patch(Circle(goals[task], GOAL_RADIUS, facecolor="0.9", label=f"reward: within {GOAL_RADIUS:g}"))
    axes.scatter(*goals[task], marker="*", s=160, facecolors="none", edgecolors="black", zorder=3, label="goal")
    axes.scatter(0, 0, marker="P", s=60, color="black", zorder=3, label="start")
    if winds[task].any():
        tip = ARROW * winds[task]
        axes.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "->", "color": "0.5", "linewidth": 2})
        axes.plot([], [], color="0.5", linewidth=2, label=f"{ARROW} times the wind")
    for moment, colour, marker in zip(moments, (BLUE, GREEN), ("o", "D"), strict=True):
        axes.plot(*moment.path.T, color=colour, linewidth=1.5, marker=".", markersize=5)
        axes.plot(*moment.path[-1], color=colour, marker=marker, markersize=11, alpha=0.8)
    axes.legend(loc="upper right", fontsize="small", framealpha=0.8)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_mp4(path: Path, frames: Iterator[Image.Image], rate: float) -> None:
    from imageio.v2 import get_writer

    with get_writer(path, format="FFMPEG", fps=rate) as writer:
        for frame in frames:
            writer.append_data(np.asarray(frame))


def write_gif(path: Path, frames: Iterator[Image.Image], rate: float) -> None:
    indexed = (frame.quantize(dither=Image.Dither.NONE) for frame in frames)
    first = next(indexed)
    first.save(path, save_all=True, append_images=chain(indexed), duration=1000 / rate, loop=0)


WRITERS = {".mp4": write_mp4, ".gif": write_gif}
