import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from omrlbench import config, registry
from omrlbench.config import TrainingConfig, convert, explain, resolve
from omrlbench.data import store
from omrlbench.envs.registry import META_ENVS
from omrlbench.errors import BenchError

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(autouse=True)
def recipes(monkeypatch):
    """Dataset recipes that need no behaviour policies."""
    monkeypatch.setattr(store, "recipe_fingerprint", lambda spec, level, kind: f"{spec.name} {level} {kind}")


def test_later_layers_win_and_leave_their_name():
    c = resolve("point_robot_wind", "tiny", budget="smoke", preset="wide", overrides=["steps=7", "noise=0.5"])
    expected = {
        "meta_batch": (4, "budget smoke"),
        "discount": (0.9, "environment point_robot_wind"),
        "learning_rate": (3e-3, "tiny on point_robot_wind"),
        "batch_size": (16, "budget smoke"),
        "hidden": ((32,), "preset wide"),
        "noise": (0.5, "--set"),
        "dropout": (None, "tiny default"),
        "steps": (7, "--set"),
        "rl_reward": ("dense", "default"),
    }
    shown = {key: (value, source) for key, value, source in explain(c)}
    assert {key: shown[key] for key in expected} == expected
    assert c.algorithm.hidden == (32,) and c.training.steps == 7


def test_what_names_the_cell_is_a_default_the_environment_s_or_from_the_command_line():
    arguments = {"level": "medium", "seed": 0, "behavior": "conditioned"}
    shown, default = ({row[0]: row[2] for row in explain(resolve("point_robot", "tiny", **a))} for a in (arguments, {}))
    assert {key for key in shown if shown[key] == "command line"} == {"env", "algo", "level", "behavior"}
    assert shown["budget"] == shown["preset"] == shown["seed"] == shown["eval_split"] == "default"
    assert default["level"] == default["behavior"] == "environment point_robot"


def test_a_batch_and_a_collection_have_at_most_the_training_tasks(monkeypatch):
    import tiny_method

    monkeypatch.setitem(META_ENVS["point_robot"].tasks.splits, "train", (0, 1))
    c = resolve("point_robot", "tiny")
    assert c.algorithm.meta_batch == 2 and c.sources["meta_batch"] == "2 training tasks"
    assert resolve("point_robot", "tiny", overrides=["meta_batch=1"]).sources["meta_batch"] == "--set"
    monkeypatch.setitem(tiny_method.Cloning.presets, "many", {"meta_batch": 3})
    for source, arguments in {"--set": {"overrides": ["meta_batch=3"]}, "preset many": {"preset": "many"}}.items():
        expected = f"{source}: meta_batch is at most 2, the training tasks of point_robot, not 3"
        with pytest.raises(BenchError, match=f"^{expected}$"):
            resolve("point_robot", "tiny", **arguments)
    pearl = resolve("point_robot", "pearl")
    assert pearl.algorithm.collection_tasks == 2 and pearl.sources["collection_tasks"] == "2 training tasks"
    with pytest.raises(
        BenchError, match="^--set: collection_tasks is at most 2, the training tasks of point_robot, not 3$"
    ):
        resolve("point_robot", "pearl", overrides=["collection_tasks=3"])


def test_environment_sections_of_a_budget_come_after_the_budget(monkeypatch, tmp_path):
    (tmp_path / "b.yaml").write_text(
        "training: {steps: 10}\n"
        "algorithm: {learning_rate: 1e-4, width: 3}\n"
        "environments: {point_robot: {training: {steps: 20}, algorithm: {noise: 0.2}}}\n"
    )
    monkeypatch.setattr(config, "_budgets", lambda: tmp_path)
    c = resolve("point_robot", "tiny", budget="b")
    assert (c.training.steps, c.sources["steps"]) == (20, "budget b on point_robot")
    assert (c.algorithm.learning_rate, c.sources["learning_rate"]) == (1e-4, "budget b")
    assert c.algorithm.noise == 0.2
    assert resolve("sparse_point_robot", "tiny", budget="b").training.steps == 10


def test_the_section_of_a_budget_for_a_method_is_that_method_s_alone(monkeypatch, tmp_path):
    (tmp_path / "b.yaml").write_text(
        "training: {steps: 10}\n"
        "environments: {point_robot: {training: {steps: 20}}}\n"
        "methods: {tiny: {training: {steps: 30}, algorithm: {noise: 0.3}}}\n"
    )
    monkeypatch.setattr(config, "_budgets", lambda: tmp_path)
    c = resolve("point_robot", "tiny", budget="b")
    assert (c.training.steps, c.sources["steps"]) == (30, "budget b of tiny") and c.algorithm.noise == 0.3
    assert resolve("point_robot", "focal", budget="b").training.steps == 20


def test_a_budget_may_have_values_of_one_method_in_one_meta_environment(monkeypatch, tmp_path):
    (tmp_path / "b.yaml").write_text(
        "environments: {point_robot: {training: {steps: 20}, methods: {tiny: {algorithm: {noise: 0.4}}}}}\n"
        "methods: {tiny: {algorithm: {noise: 0.3}}}\n"
    )
    monkeypatch.setattr(config, "_budgets", lambda: tmp_path)
    c = resolve("point_robot", "tiny", budget="b")
    assert (c.algorithm.noise, c.sources["noise"]) == (0.4, "budget b of tiny on point_robot")
    assert c.training.steps == 20 and resolve("sparse_point_robot", "tiny", budget="b").algorithm.noise == 0.3


def test_a_misspelt_training_key_in_a_budget_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "b.yaml").write_text("training: {stepz: 10}\n")
    monkeypatch.setattr(config, "_budgets", lambda: tmp_path)
    with pytest.raises(BenchError, match="unknown key in budget b 'stepz': did you mean steps"):
        resolve("point_robot", "tiny", budget="b")


@pytest.mark.parametrize("budget", config.budget_names())
@pytest.mark.parametrize("env", META_ENVS)
def test_shipped_budgets_resolve(budget, env):
    assert resolve(env, "focal", budget=budget).budget == budget


@pytest.mark.parametrize(
    "text, annotation, value",
    [
        ("3", int, 3),
        ("1e-3", float, 1e-3),
        (2, float, 2.0),
        ("True", bool, True),
        ("false", bool, False),
        ("a b", str, "a b"),
        ("paper", Literal["paper", "released"], "paper"),
        ("2", Literal[1, 2], 2),
        ("64,64", tuple[int, ...], (64, 64)),
        ([1, 2], tuple[float, ...], (1.0, 2.0)),
        ("", tuple[int, ...], ()),
        ("none", float | None, None),
        ("0.5", float | None, 0.5),
    ],
)
def test_values_are_typed_by_annotation(text, annotation, value):
    converted = convert(text, annotation)
    assert converted == value and type(converted) is type(value)


@pytest.mark.parametrize(
    "override, message",
    [
        ("learning_rate=fast", "--set: learning_rate is a finite number, not 'fast'"),
        ("learning_rate=nan", "a finite number"),
        ("steps=1.5", "--set: steps is an integer, not '1.5'"),
        ("steps=0", "steps must be at least 1"),
        ("rl_reward=sprase", "--set: rl_reward: unknown value 'sprase': did you mean sparse? choose from dense"),
        ("device=cdua", "did you mean cuda? choose from cpu, cuda"),
        ("hidden=16,x", "an integer"),
        ("lerning_rate=1", "did you mean learning_rate"),
        ("steps", "takes key=value, not 'steps'"),
        ("noise=__import__('os')", "a finite number"),
    ],
)
def test_bad_overrides_are_one_line_errors(override, message):
    with pytest.raises(BenchError) as caught:
        resolve("point_robot", "tiny", budget="smoke", overrides=[override])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"level": "exprt"}, "unknown level 'exprt': did you mean expert?"),
        ({"budget": "cup"}, "unknown budget 'cup': did you mean cpu?"),
        ({"preset": "wider"}, "unknown preset of tiny 'wider': did you mean wide?"),
        ({"behavior": "per-task"}, "did you mean per_task?"),
        ({"behavior": ""}, "unknown behaviour kind ''"),
        ({"eval_split": "train"}, "unknown evaluation split"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_names_are_one_line_errors(arguments, message):
    with pytest.raises(BenchError) as caught:
        resolve("point_robot", "tiny", **{"budget": "smoke"} | arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_reward_that_the_environment_does_not_have_is_a_one_line_error():
    with pytest.raises(BenchError, match="^unknown rl_reward of cheetah_vel 'sparse': choose from dense$"):
        resolve("cheetah_vel", "tiny", overrides=["rl_reward=sparse"])


def test_a_method_field_that_the_loop_owns_is_refused(monkeypatch):
    import tiny_method

    monkeypatch.setattr(tiny_method.Cloning, "Config", TrainingConfig)
    with pytest.raises(BenchError, match="belongs to the training loop"):
        resolve("point_robot", "tiny", budget="smoke")


def test_the_fingerprint_tells_results_apart_and_nothing_else():
    def fingerprint(**arguments):
        return resolve("point_robot", "tiny", **{"budget": "smoke"} | arguments).fingerprint

    base = fingerprint()
    assert base == fingerprint(seed=3) == fingerprint(overrides=["checkpoint_interval=9"])
    assert base == fingerprint(overrides=["noise=0.1"])
    others = [{"overrides": ["noise=0.2"]}, {"overrides": ["steps=9"]}, {"eval_split": "validation"}]
    others += [{"preset": "wide"}, {"level": "medium"}]
    assert len({base, *(fingerprint(**arguments) for arguments in others)}) == 1 + len(others)


def test_a_new_revision_is_another_fingerprint():
    c = resolve("point_robot", "tiny", budget="smoke")
    assert replace(c, revisions=c.revisions | {"env": 99}).fingerprint != c.fingerprint


def test_the_path_names_the_cell_and_the_seed():
    c = resolve("point_robot", "tiny", budget="smoke", seed=4)
    cell = f"smoke-{c.fingerprint[:8]}"
    assert c.record_path("r") == Path("r/point_robot/expert/tiny") / cell / "seed-4.json"


@pytest.mark.parametrize(
    ("env", "regularization", "reward_scale", "alpha", "alpha_max"),
    [
        ("sparse_point_robot", "none", 100.0, 500.0, 2000.0),
        ("point_robot_wind", "none", 100.0, 500.0, 2000.0),
        ("cheetah_vel", "policy", 5.0, 50.0, 2000.0),
        ("cheetah_fwd_back", "both", 5.0, 500.0, 2000.0),
        ("ant_fwd_back", "both", 5.0, 1e6, 5e6),
        ("walker_params", "policy", 5.0, 50.0, 1e4),
    ],
)
def test_the_released_preset_overrides_budget_and_environment(env, regularization, reward_scale, alpha, alpha_max):
    config = resolve(env, "focal", preset="released-code")
    method = config.algorithm
    assert (method.regularization, method.reward_scale) == (regularization, reward_scale)
    assert (method.alpha, method.alpha_max) == (alpha, alpha_max)
    assert method.context_next_observations is (env == "walker_params")
    assert config.sources["regularization"].startswith("preset released-code")
    assert (method.width, method.encoder_width, method.latent_dim) == (256, 200, 20)
    assert config.training.learning_rate_decay == "none" and method.discriminator_penalty_weight == 5.0


def test_a_field_that_is_added_leaves_fingerprints_and_a_value_that_is_not_its_default_does_not(monkeypatch):
    import tiny_method

    before = resolve("point_robot", "tiny", budget="smoke")

    @dataclass(frozen=True)
    class Extended(tiny_method.CloningConfig):
        added: float = 0.5

    monkeypatch.setattr(tiny_method.Cloning, "Config", Extended)
    assert resolve("point_robot", "tiny", budget="smoke").fingerprint == before.fingerprint
    assert resolve("point_robot", "tiny", budget="smoke", overrides=["added=0.5"]).fingerprint == before.fingerprint
    assert resolve("point_robot", "tiny", budget="smoke", overrides=["added=1"]).fingerprint != before.fingerprint


@pytest.mark.parametrize("algo", registry.algorithms())
def test_a_record_gives_its_configuration_back(algo):
    made = resolve("point_robot", algo, seed=3, overrides=["learning_rate_decay=none", "batch_size=33"])
    stored = json.loads(json.dumps(made.to_dict() | {"dataset": {"recipe": made.dataset}}))
    again = config.RunConfig.from_dict(stored)
    assert again == made and again.fingerprint == made.fingerprint


def test_a_record_of_a_method_with_other_fields_is_refused_and_missing_ones_have_their_defaults():
    made = resolve("point_robot", "focal")
    stored = made.to_dict() | {"dataset": {"recipe": made.dataset}}
    fewer = stored | {"algorithm": {k: v for k, v in stored["algorithm"].items() if k != "metric_power"}}
    assert config.RunConfig.from_dict(fewer) == made
    with pytest.raises(BenchError, match="unknown key of FocalConfig 'metric_pover': did you mean metric_power"):
        config.RunConfig.from_dict(stored | {"algorithm": stored["algorithm"] | {"metric_pover": 1}})
    with pytest.raises(BenchError, match=r"TrainingConfig: steps is an integer, not \[1\]$"):
        config.RunConfig.from_dict(stored | {"training": {"steps": [1]}})
