"""`bench view`: real videos of short runs, of few pictures where MuJoCo has to draw them."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omrlbench import training, videos
from omrlbench.cli import main
from omrlbench.config import resolve
from omrlbench.envs.point_robot import PointRobotEnv
from omrlbench.envs.registry import get_meta_env
from omrlbench.errors import BenchError
from omrlbench.record import read_record
from omrlbench.videos import choose_tasks, draw, make_video, side_by_side

needs_ffmpeg = pytest.mark.skipif(find_spec("imageio_ffmpeg") is None, reason="the extra video is not installed")
SHORT = ["steps=3", "eval_interval=1", "final_eval_episodes=2"]


def run(env: str, folder: Path, data_dir: Path, algo: str = "focal") -> Path:
    """The record of a short run."""
    config = resolve(env, algo, budget="smoke", overrides=SHORT)
    training.run(config, results_dir=folder, data_dir=data_dir)
    return config.record_path(folder)


@pytest.fixture(scope="module")
def point_robot(tmp_path_factory, data_dir) -> Path:
    return run("sparse_point_robot", tmp_path_factory.mktemp("results"), data_dir)


@pytest.fixture(scope="module")
def cheetah(tmp_path_factory) -> tuple[Path, Path]:
    """A record, and where its data are."""
    data = tmp_path_factory.mktemp("data")
    return run("cheetah_fwd_back", tmp_path_factory.mktemp("results"), data), data


@pytest.fixture(scope="module")
def opengl() -> None:
    env = get_meta_env("cheetah_fwd_back").make(0, render_mode="rgb_array")
    env.reset(seed=0)
    try:
        env.render()
    except Exception as error:
        pytest.skip(f"no OpenGL here: {error}")
    finally:
        env.close()


def measured(record: Path, protocol: str = "offline") -> dict[int, float]:
    """By task, the return of the first episode of the run's last evaluation."""
    last = read_record(record).last_evaluation(protocol)
    return {task: returns[0] for task, returns in zip(last["task_ids"], last["returns"], strict=True)}


def read_mp4(path: Path) -> tuple[list[np.ndarray], float]:
    """Its pictures, and how many of them are shown per second."""
    from imageio.v2 import get_reader

    with get_reader(path, format="FFMPEG") as reader:
        return [frame for frame in reader], reader.get_meta_data()["fps"]


@needs_ffmpeg
def test_point_robots_have_a_picture_per_step_and_the_returns_that_were_measured(point_robot, tmp_path, data_dir):
    out = tmp_path / "new" / "video.mp4"
    shown = make_video(point_robot, out, [99, 1], data_dir=data_dir)
    returns = measured(point_robot)
    assert [(one.task, one.method) for one in shown] == [(task, pytest.approx(returns[task])) for task in (99, 1)]
    assert all(one.expert > 11 for one in shown)
    frames, rate = read_mp4(out)
    assert rate == 10 and len(frames) == 2 * (21 + 10) and frames[0].shape == (592, 960, 3)
    assert (frames[0] != frames[20]).mean() > 0.001
    assert (frames[20] != frames[30]).mean() < 0.001  # the end stays
    assert list(out.parent.iterdir()) == [out]


def test_a_method_that_interacts_is_shown_with_the_context_that_it_collected(tmp_path, data_dir):
    record, task = run("point_robot", tmp_path, data_dir, "pearl"), get_meta_env("point_robot").tasks.splits["test"][0]
    shown = make_video(record, tmp_path / "video.gif", [task], data_dir=data_dir)
    online, offline = (measured(record, protocol)[task] for protocol in ("online", "offline"))
    assert shown[0].method == pytest.approx(online) and online != pytest.approx(offline)


def test_a_gif_lasts_as_long_as_the_episodes(point_robot, tmp_path, data_dir):
    make_video(point_robot, tmp_path / "video.gif", [1], data_dir=data_dir)
    with Image.open(tmp_path / "video.gif") as gif:
        durations = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            durations.append(gif.info["duration"])
        assert gif.size == (960, 592) and gif.n_frames > 20
    assert sum(durations) == 1000 * (21 + 10) / 10


@needs_ffmpeg
def test_robots_of_mujoco_in_the_tasks_with_the_returns_that_were_measured(opengl, cheetah, tmp_path, monkeypatch):
    record, data = cheetah
    monkeypatch.setitem(videos.LARGEST_RATE, ".mp4", 0.4)  # every 50th step
    shown = make_video(record, tmp_path / "video.mp4", data_dir=data)
    returns = measured(record)
    assert {one.task: one.method for one in shown} == {task: pytest.approx(returns[task]) for task in (0, 1)}
    assert all(one.expert > 1000 for one in shown)
    frames, rate = read_mp4(tmp_path / "video.mp4")
    assert rate == pytest.approx(0.4) and len(frames) == 2 * 5
    left, right = frames[4][112:, :470].astype(int), frames[4][112:, 490:].astype(int)
    assert left.std() > 20 and right.std() > 20 and (np.abs(left - right) > 20).mean() > 0.05


def test_who_falls_waits_for_the_other(opengl):
    spec = get_meta_env("walker_params")
    pushed = np.ones((spec.horizon, 6), np.float32)
    moments = list(side_by_side(spec, 40, 0, pushed, 100))
    methods, experts = zip(*moments, strict=True)
    assert methods[0].step == 0 and methods[1].ended == methods[2].ended == "fallen"
    assert methods[1] is methods[2] and methods[1].step < 100
    assert [moment.step for moment in experts] == [0, 100, 200] and experts[-1].ended == "time is up"
    assert experts[1].earned < experts[2].earned


def test_what_is_written_above_the_pictures_fits():
    """The longest names there are, in the family with the longest description of a task."""
    spec = get_meta_env("walker_params")
    config = resolve(spec.name, "focal_probabilistic")
    moment = videos.Moment(200, -1234.56, "fallen", np.zeros((1, 17)), np.full((480, 480, 3), 255, np.uint8))
    pixels = np.asarray(draw(config, "offline_shifted", 40, (moment, moment), None))
    assert (pixels[:112] < 128).any() and (pixels[:112, [0, 1, -2, -1]] > 250).all()
    colours = pixels[60:112].astype(int)
    left, right = colours[:, :480], colours[:, 480:]
    assert (left[..., 2] > left[..., 0] + 60).any() and (right[..., 1] > right[..., 0] + 60).any()
    assert (colours[:, 470:490] > 250).all()


def test_three_tasks_are_chosen_by_their_parameter():
    spec = get_meta_env("cheetah_vel")
    velocities = spec.tasks.parameters[:, 0]
    tasks = choose_tasks(spec, "test", ())
    low, middle, high = velocities[tasks]
    test = velocities[list(spec.tasks.splits["test"])]
    assert low == test.min() and high == test.max() and (test < middle).sum() == 10
    assert choose_tasks(spec, "test", (85, 83, 85)) == [85, 83]
    assert choose_tasks(get_meta_env("ant_fwd_back"), "test", ()) == [1, 0]


def test_wrong_input_is_one_line_with_the_fix(point_robot, tmp_path, data_dir, monkeypatch, capsys):
    def complaint(*arguments) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(["view", *map(str, arguments), "--data-dir", str(data_dir)])
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    gif = tmp_path / "video.gif"
    assert "3 is no test task of sparse_point_robot: choose from 1, 6" in complaint(
        point_robot, "--out", gif, "--task", 3
    )
    assert "video.avi ends in neither of .mp4, .gif" in complaint(point_robot, "--out", tmp_path / "video.avi")
    gif.write_bytes(b"mine")
    assert "video.gif exists: add --overwrite" in complaint(point_robot, "--out", gif)
    assert gif.read_bytes() == b"mine"
    gif.unlink()
    other = tmp_path / "seed-1.json"
    shutil.copy(point_robot, other)
    assert f"no weights beside {other}; repeat the run and use its new record: bench run --from {other}" in complaint(
        other, "--out", gif
    )
    assert "there is no run record" in complaint(tmp_path / "seed-2.json", "--out", gif)
    monkeypatch.setattr(videos, "find_spec", lambda name: None)
    assert "pip install 'omrl-bench[video]'" in complaint(point_robot, "--out", gif.with_suffix(".mp4"))
    assert not gif.exists() and not gif.with_suffix(".mp4").exists()


def test_a_world_without_pictures_is_named(monkeypatch):
    monkeypatch.setattr(PointRobotEnv, "metadata", {"render_modes": []})
    spec = replace(get_meta_env("point_robot"), plane=False)
    with pytest.raises(BenchError, match="^point_robot draws no pictures"):
        videos.pace(spec, 0, ".gif")


@pytest.mark.parametrize("suffix", [".gif", pytest.param(".mp4", marks=needs_ffmpeg)])
def test_an_interruption_leaves_no_file_and_the_old_one_whole(point_robot, tmp_path, data_dir, suffix):
    def interrupt(what: str, done: int, total: int) -> None:
        if what.startswith("drawing") and done == 5:
            raise KeyboardInterrupt

    folder = tmp_path / "videos"
    folder.mkdir()
    out = folder / f"video{suffix}"
    out.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        make_video(point_robot, out, [1], overwrite=True, data_dir=data_dir, on_progress=interrupt)
    assert out.read_bytes() == b"old" and list(folder.iterdir()) == [out]


@needs_ffmpeg
def test_the_command_says_where_the_video_is(point_robot, tmp_path, data_dir, monkeypatch, capsys):
    monkeypatch.setenv("OMRLBENCH_RESULTS_DIR", str(tmp_path / "mine"))
    with pytest.raises(SystemExit) as stopped:
        main(["view", str(point_robot), "--task", "1", "--data-dir", str(data_dir)])
    assert stopped.value.code == 0
    (video,) = (tmp_path / "mine" / "videos").iterdir()
    assert video.name.startswith("sparse_point_robot-expert-focal-smoke-") and video.name.endswith("-seed-0.mp4")
    out = capsys.readouterr().out
    assert f"video: {video}" in out and f"{measured(point_robot)[1]:.2f}" in out


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a picture needs no display")
@needs_ffmpeg
def test_without_opengl_one_line_says_what_to_install(cheetah, tmp_path):
    record, data = cheetah
    surroundings = {key: value for key, value in os.environ.items() if key != "DISPLAY"} | {"MUJOCO_GL": "glfw"}
    command = [sys.executable, "-c", "from omrlbench.cli import main; main()", "view", record, "--data-dir", data]
    command += ["--out", tmp_path / "video.mp4"]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("bench: "))
    assert "OpenGL does not work (MUJOCO_GL is glfw)" in line and "MUJOCO_GL=osmesa" in line
    assert not (tmp_path / "video.mp4").exists()
