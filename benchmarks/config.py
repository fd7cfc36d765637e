"""The configuration of a run: typed values, where each came from, and the fingerprint that names the run.

Precedence, later wins: method defaults, environment, method on environment, variant, budget, the method's demands on
the loop, preset, `--set`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache, cached_property
from importlib.resources import files
from inspect import signature
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from omrlbench.errors import BenchError, unknown
from omrlbench.registry import algorithm_class, meta_env, variant_values

if TYPE_CHECKING:
    from omrlbench.algorithms.algorithm import AlgorithmConfig

EVAL_SPLITS = ("test", "validation")
DISTINCT_TASKS = ("meta_batch", "collection_tasks")  # fields that count distinct training tasks
DEFAULT_ALLOWANCE = "context"  # of a record that says no other
DEFAULT_EXPERIENCE = "logs"  # that records do not name


@dataclass(frozen=True)
class TrainingConfig:
    """What the loop reads. Only `checkpoint_interval` has no influence on results."""

    steps: int = 15_000  # updates of the learner
    eval_interval: int = 500  # updates between two points of the curve; the last update is always one
    eval_episodes: int = 2  # per validation task and point of the curve
    final_eval_episodes: int = 10  # per task of the final evaluations
    checkpoint_interval: int = 1_000  # updates between two saved states
    rl_reward: Literal["dense", "sparse"] = "dense"  # what the learner maximises; scores use the environment's own
    learning_rate_decay: Literal["none", "linear"] = "none"  # linear: to zero over the run, every optimiser alike
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")


@dataclass(frozen=True)
class RunConfig:
    """One run, complete. `revisions`, `allowance` and `experience`, the method's, are this installation's; `dataset` is
    the data's recipe fingerprint.
    """

    env: str
    level: str
    algo: str
    behavior: str  # kind of behaviour policy that collected the data
    budget: str
    preset: str | None
    seed: int
    eval_split: str  # where final parameters are evaluated: "test", or "validation" while tuning
    training: TrainingConfig
    algorithm: "AlgorithmConfig"
    revisions: dict[str, int]
    dataset: str
    sources: dict[str, str] = field(compare=False)
    allowance: str = DEFAULT_ALLOWANCE
    experience: str = DEFAULT_EXPERIENCE

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: everything except `sources`, and `allowance` and `experience` at their defaults."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sources"}
        if self.allowance == DEFAULT_ALLOWANCE:
            del values["allowance"]
        if self.experience == DEFAULT_EXPERIENCE:
            del values["experience"]
        values["training"], values["algorithm"] = asdict(self.training), asdict(self.algorithm)
        return json.loads(json.dumps(values, allow_nan=False)) | {"fingerprint": self.fingerprint}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything that changes results, except the seed.

        Of the loop's and the method's values only those that are not the defaults: a field that is added with a default
        that leaves results as they were leaves fingerprints too. Whoever changes a default bumps the revision.
        """
        identity = {
            "env": self.env,
            "level": self.level,
            "algo": self.algo,
            "behavior": self.behavior,
            "eval_split": self.eval_split,
            "training": _changed(self.training),
            "algorithm": _changed(self.algorithm),
            "revisions": self.revisions,
            "dataset": self.dataset,
        }
        identity["training"].pop("checkpoint_interval", None)
        return hashlib.sha256(json.dumps(identity, sort_keys=True, allow_nan=False).encode()).hexdigest()

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "RunConfig":
        """The configuration that the `config` of a record holds; fields that it lacks have their defaults.

        Raises BenchError where the method is unknown here, or has no such field or value.
        """
        values = {f.name: stored.get(f.name) for f in fields(cls)} | {"sources": {}}
        values["allowance"] = allowance_of(stored)
        values["experience"] = experience_of(stored)
        values["dataset"] = stored["dataset"]["recipe"]
        sections = {"training": TrainingConfig, "algorithm": algorithm_class(stored["algo"]).Config}
        for name, section in sections.items():
            values[name] = _section(section, stored[name])
        return cls(**values)

    def record_path(self, results_dir: str | Path) -> Path:
        cell = f"{self.budget}-{self.fingerprint[:8]}"
        return Path(results_dir) / self.env / self.level / self.algo / cell / f"seed-{self.seed}.json"


def allowance_of(stored: dict[str, Any]) -> str:
    """What the method was allowed to see of an evaluated task in a run whose record has the `config` `stored`."""
    return stored.get("allowance", DEFAULT_ALLOWANCE)


def experience_of(stored: dict[str, Any]) -> str:
    """What the method learned from in a run whose record has the `config` `stored`; old ones leave it to the method."""
    return stored.get("experience") or algorithm_class(stored["algo"]).experience


def _section(section: type, stored: dict[str, Any]) -> Any:
    """The config `section` with the JSON values of `stored`."""
    hints = get_type_hints(section)
    for key in stored.keys() - hints.keys():
        raise unknown(f"key of {section.__name__}", key, hints)
    values = {key: _converted(section.__name__, key, value, hints[key]) for key, value in stored.items()}
    try:
        return section(**values)
    except ValueError as error:
        raise BenchError(f"{section.__name__}: {error}") from None


def _changed(section: Any) -> dict[str, Any]:
    """The values of a config that are not its class's defaults, JSON-able."""
    return {f.name: getattr(section, f.name) for f in fields(section) if getattr(section, f.name) != f.default}


def resolve(
    env: str,
    algo: str,
    *,
    level: str | None = None,
    budget: str = "cpu",
    preset: str | None = None,
    seed: int = 0,
    behavior: str | None = None,
    eval_split: str = "test",
    overrides: Sequence[str] = (),
) -> RunConfig:
    """The complete configuration; `overrides` are "key=value" strings. Raises BenchError in one line.

    Level and kind of behaviour policies are by default the environment's.
    """
    spec, method = meta_env(env), algorithm_class(algo)
    from omrlbench.data.behavior import KINDS
    from omrlbench.data.store import recipe_fingerprint
    from omrlbench.envs.registry import LEVELS
    from omrlbench.evaluation import PROTOCOL_REVISION

    level = spec.default_level if level is None else level
    behavior = spec.behavior_kind if behavior is None else behavior
    _check("level", level, LEVELS)
    _check("behaviour kind", behavior, KINDS)
    _check("evaluation split", eval_split, EVAL_SPLITS)
    if not spec.tasks.splits[eval_split]:
        raise BenchError(f"{env} has no {eval_split} tasks")
    if not 0 <= seed < 2**32:
        raise BenchError(f"a seed is an integer from 0 to 2**32 - 1, not {seed}")
    if preset is not None:
        _check(f"preset of {algo}", preset, method.presets)

    values = _Values(algo, method.Config)
    values.update(f"environment {env}", values.known_to_method(spec.learner_defaults))
    values.update(f"{algo} on {env}", method.environment_values.get(env, {}))
    values.update(algo, variant_values(algo))
    for source, training, algorithm in _budget_layers(budget, env, algo):
        values.update(source, training)
        values.update(source, values.known_to_method(algorithm))
    values.update(algo, method.training_values)
    if preset is not None:
        table = dict(method.presets[preset])
        on_env = table.pop("environments", {}).get(env, {})
        values.update(f"preset {preset}", table)
        values.update(f"preset {preset} on {env}", on_env)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise BenchError(f"--set takes key=value, not {override!r}")
        values.update("--set", {key.strip(): value.strip()})
    values.limit_to_tasks(env, len(spec.tasks.splits["train"]))

    training, algorithm = values.build()
    _check(f"rl_reward of {env}", training.rl_reward, spec.rewards)
    return RunConfig(
        env=env,
        level=level,
        algo=algo,
        behavior=behavior,
        budget=budget,
        preset=preset,
        seed=seed,
        eval_split=eval_split,
        training=training,
        algorithm=algorithm,
        revisions={"algorithm": method.revision, "env": spec.revision, "protocol": PROTOCOL_REVISION},
        dataset=recipe_fingerprint(spec, level, behavior),
        sources=values.sources,
        allowance=method.allowance,
        experience=method.experience,
    )


def check_installed(config: RunConfig) -> None:
    """Raise BenchError, naming what differs, if this installation would not carry out `config` as it was recorded."""
    now = resolve(config.env, config.algo, level=config.level, behavior=config.behavior)
    for name, revision in now.revisions.items():
        if config.revisions.get(name) != revision:
            raise BenchError(f"it has {name} revision {config.revisions.get(name)}, this installation {revision}")
    if config.dataset != now.dataset:
        raise BenchError("this installation has another recipe of its dataset")


def explain(config: RunConfig) -> list[tuple[str, Any, str]]:
    """Every value of the configuration as (key, value, where it came from)."""
    given = ("env", "level", "algo", "behavior", "budget", "preset", "seed", "eval_split")
    rows = [(key, getattr(config, key), _cell_source(config, key)) for key in given]
    for section in (config.training, config.algorithm):
        rows += [(f.name, getattr(section, f.name), config.sources[f.name]) for f in fields(section)]
    rows += [(f"{name} revision", value, "this installation") for name, value in config.revisions.items()]
    return [
        *rows,
        ("allowance", config.allowance, f"method {config.algo}"),
        ("experience", config.experience, f"method {config.algo}"),
        ("dataset recipe", config.dataset, "this installation"),
        ("fingerprint", config.fingerprint, ""),
    ]


def _cell_source(config: RunConfig, key: str) -> str:
    value = getattr(config, key)
    spec = meta_env(config.env)
    if (key, value) in (("level", spec.default_level), ("behavior", spec.behavior_kind)):
        return f"environment {config.env}"
    return "default" if value == signature(resolve).parameters[key].default else "command line"


def budget_names() -> list[str]:
    return sorted(Path(f.name).stem for f in _budgets().iterdir() if f.name.endswith(".yaml"))


class _Values:
    """Field values under construction: those of the loop and of one method, in one flat namespace."""

    def __init__(self, algo: str, method_config: type):
        self.sections = (TrainingConfig, method_config)
        self.hints = [get_type_hints(section) for section in self.sections]
        clash = sorted(set(self.hints[0]) & set(self.hints[1]))
        if clash:
            raise BenchError(f"{algo}: the config field {clash[0]!r} belongs to the training loop, rename it")
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        for section, source in zip(self.sections, ("default", f"{algo} default"), strict=True):
            for name, value in vars(section()).items():
                self.values[name], self.sources[name] = value, source

    def known_to_method(self, values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key in self.hints[1]}

    def update(self, source: str, values: dict[str, Any]) -> None:
        hints = self.hints[0] | self.hints[1]
        for key, value in values.items():
            if key not in hints:
                raise unknown(f"key in {source}", key, hints)
            self.values[key] = _converted(source, key, value, hints[key])
            self.sources[key] = source

    def limit_to_tasks(self, env: str, tasks: int) -> None:
        """At most the training tasks of `env` in a batch and in a collection; an error where more were asked for."""
        for key in DISTINCT_TASKS:
            wanted = self.values.get(key, 0)
            if wanted <= tasks:
                continue
            if (source := self.sources[key]).startswith(("--set", "preset")):
                raise BenchError(f"{source}: {key} is at most {tasks}, the training tasks of {env}, not {wanted}")
            self.values[key], self.sources[key] = tasks, f"{tasks} training tasks"

    def build(self) -> list[Any]:
        """The instances of both sections."""
        try:
            return [
                section(**{name: self.values[name] for name in hints})
                for section, hints in zip(self.sections, self.hints, strict=True)
            ]
        except ValueError as error:
            raise BenchError(str(error)) from None


def convert(value: Any, annotation: Any) -> Any:
    """`value`, text or already typed, as `annotation` demands. Raises ValueError saying what is expected, and
    BenchError where it is none of the choices of a Literal.

    Text for a tuple separates its items by commas; "none" is None.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        (inner,) = (a for a in arguments if a is not NoneType)
        return None if value in (None, "none") else convert(value, inner)
    if origin is Literal:
        for choice in arguments:
            if value in (choice, str(choice)):
                return choice
        raise unknown("value", str(value), map(str, arguments))
    if origin is tuple:
        items = [item for item in value.split(",") if item.strip()] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ValueError("a list separated by commas")
        return tuple(convert(item, arguments[0]) for item in items)
    return _SCALARS[annotation](value)


def _converted(source: str, key: str, value: Any, annotation: Any) -> Any:
    """`convert`, with errors that name the `key` and where its value is from."""
    try:
        return convert(value, annotation)
    except ValueError as error:
        raise BenchError(f"{source}: {key} is {error}, not {value!r}") from None
    except BenchError as error:
        raise BenchError(f"{source}: {key}: {error}") from None


def _to_bool(value: Any) -> bool:
    named = {"true": True, "false": False}.get(str(value).lower())
    if named is None:
        raise ValueError("true or false")
    return named


def _to_int(value: Any) -> int:
    try:
        if isinstance(value, bool | float):
            raise TypeError
        return int(value)
    except (TypeError, ValueError):
        raise ValueError("an integer") from None


def _to_float(value: Any) -> float:
    try:
        if isinstance(value, bool) or not abs(number := float(value)) < float("inf"):
            raise TypeError
        return number
    except (TypeError, ValueError):
        raise ValueError("a finite number") from None


def _to_str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    return value


_SCALARS = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str}


def _check(kind: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        raise unknown(kind, given, allowed)


def _budgets() -> Any:
    return files("omrlbench") / "budgets"


@cache
def _yaml(path: Any) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(path.read_text())


def _budget_layers(budget: str, env: str, algo: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(source, training values, algorithm values) of the budget, then of its sections for `env`, `algo` and both."""
    _check("budget", budget, budget_names())
    table = _yaml(_budgets() / f"{budget}.yaml")
    on_env = table.get("environments", {}).get(env, {})
    layers = [
        (f"budget {budget}", table),
        (f"budget {budget} on {env}", on_env),
        (f"budget {budget} of {algo}", table.get("methods", {}).get(algo, {})),
        (f"budget {budget} of {algo} on {env}", on_env.get("methods", {}).get(algo, {})),
    ]
    return [(source, part.get("training", {}), part.get("algorithm", {})) for source, part in layers]
