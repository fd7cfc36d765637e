"""Names to methods and meta-environments. Methods are strings here, imported when first used.

Other packages add methods by an entry point of the group `omrlbench.algorithms`, for example

    [project.entry-points."omrlbench.algorithms"]
    my_method = "my_package.my_method:MyMethod"
"""

from importlib.metadata import EntryPoint, entry_points
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from omrlbench.errors import BenchError, unknown

if TYPE_CHECKING:
    from omrlbench.algorithms.algorithm import Algorithm
    from omrlbench.envs.registry import MetaEnvSpec

GROUP = "omrlbench.algorithms"

ALGORITHMS: dict[str, str] = {
    "focal": "omrlbench.algorithms.focal:Focal",
    "batch_pearl": "omrlbench.algorithms.batch_pearl:BatchPearl",
    "contextual_bcq": "omrlbench.algorithms.contextual_bcq:ContextualBCQ",
    "mbml": "omrlbench.algorithms.mbml:MBML",
    "bc": "omrlbench.algorithms.bc:BehaviorCloning",
    "no_context": "omrlbench.algorithms.no_context:NoContext",
    "oracle_task": "omrlbench.algorithms.oracle_task:OracleTask",
    "do_nothing": "omrlbench.algorithms.untrained:DoNothing",
    "random_policy": "omrlbench.algorithms.untrained:RandomPolicy",
    "expert_policy": "omrlbench.algorithms.untrained:ExpertPolicy",
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> method, and the values that differ from it
    "focal_inverse": ("focal", {"metric_power": -1, "metric_beta": 2.0}),  # weights: FOCAL, Table 5b
    "focal_linear": ("focal", {"metric_power": 1, "metric_beta": 8.0}),
    "focal_square": ("focal", {"metric_power": 2, "metric_beta": 16.0}),
    "focal_repel": ("focal", {"metric_attraction": False}),
    "focal_probabilistic": ("focal", {"encoder": "gaussian"}),
    "focal_coupled": ("focal", {"coupled_gradients": True}),
    "batch_pearl_brac": ("batch_pearl", {"regularization": "policy"}),
}


def algorithms() -> dict[str, str]:
    """Every known method and where it comes from, built-in ones first. Imports none of them."""
    plugins = _plugins()
    origins = {name: "built in" for name in ALGORITHMS}
    for name, (method, values) in VARIANTS.items():
        origins[name] = f"built in: {method} with {', '.join(f'{key}={value}' for key, value in values.items())}"
    for name, points in plugins.items():
        claims = " and ".join(_distribution(point) for point in points)
        if name in origins:
            origins[name] = f"built in; the method of this name in {claims} is ignored"
        else:
            origins[name] = claims if len(points) == 1 else f"unusable: claimed by {claims}"
    return origins


def algorithm_class(name: str) -> "type[Algorithm]":
    """The method called `name`, of a variant the one that it varies.

    Raises BenchError for an unknown, ambiguous or broken one.
    """
    name = VARIANTS[name][0] if name in VARIANTS else name
    if name in ALGORITHMS:
        return resolve_name(ALGORITHMS[name])
    points = _plugins().get(name, [])
    if not points:
        raise unknown("method", name, algorithms())
    if len(points) > 1:
        claims = " and ".join(_distribution(point) for point in points)
        raise BenchError(f"method {name!r} is claimed by {claims}: uninstall one of them")
    return _load(points[0])


def variant_values(name: str) -> dict[str, Any]:
    """The values in which the variant `name` differs from its method, none for a method."""
    return VARIANTS[name][1] if name in VARIANTS else {}


def meta_env(name: str) -> "MetaEnvSpec":
    """The meta-environment called `name`. Raises BenchError for an unknown, ambiguous or broken one."""
    from omrlbench.envs.registry import META_ENVS, get_meta_env, meta_env_origins

    if name not in META_ENVS and name not in meta_env_origins():
        raise unknown("meta-environment", name, meta_env_origins())
    try:
        return get_meta_env(name)
    except ValueError as error:
        raise BenchError(str(error)) from error


def _plugins() -> dict[str, list[EntryPoint]]:
    """Entry points by name; more than one where distributions claim the same name."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _load(point: EntryPoint) -> "type[Algorithm]":
    from omrlbench.algorithms.algorithm import Algorithm

    try:
        loaded = point.load()
    except Exception as error:
        raise BenchError(
            f"method {point.name!r} of {_distribution(point)} is broken: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Algorithm)):
        raise BenchError(f"method {point.name!r} of {_distribution(point)} is no subclass of Algorithm: {loaded!r}")
    return loaded
