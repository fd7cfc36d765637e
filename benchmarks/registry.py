"""Names to methods and meta-environments. Methods are strings here, imported when first used.

Other packages add methods by an entry point of the group `omrlbench.algorithms`, for example

    [project.entry-points."omrlbench.algorithms"]
    my_method = "my_package.my_method:MyMethod"
"""

from importlib.metadata import EntryPoint, entry_points
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from omrlbench.errors import BenchError, unknown

if TYPE_CHECKING:
    from omrlbench.algorithms.algorithm import Algorithm
    from omrlbench.envs.registry import MetaEnvSpec

GROUP = "omrlbench.algorithms"

ALGORITHMS: dict[str, str] = {
    "focal": "omrlbench.algorithms.focal:Focal",
}


def algorithms() -> dict[str, str]:
    """Every known method and where it comes from, built-in ones first. Imports none of them."""
    plugins = _plugins()
    origins = {name: "built in" for name in ALGORITHMS}
    for name, points in plugins.items():
        claims = " and ".join(_distribution(point) for point in points)
        if name in ALGORITHMS:
            origins[name] = f"built in; the method of this name in {claims} is ignored"
        else:
            origins[name] = claims if len(points) == 1 else f"unusable: claimed by {claims}"
    return origins


def algorithm_class(name: str) -> "type[Algorithm]":
    """The method called `name`. Raises BenchError for an unknown, ambiguous or broken one."""
    if name in ALGORITHMS:
        return resolve_name(ALGORITHMS[name])
    points = _plugins().get(name, [])
    if not points:
        raise unknown("method", name, algorithms())
    if len(points) > 1:
        claims = " and ".join(_distribution(point) for point in points)
        raise BenchError(f"method {name!r} is claimed by {claims}: uninstall one of them")
    return _load(points[0])


def meta_env(name: str) -> "MetaEnvSpec":
    """The meta-environment called `name`. Raises BenchError for an unknown one."""
    from omrlbench.envs.registry import META_ENVS

    if name not in META_ENVS:
        raise unknown("meta-environment", name, META_ENVS)
    return META_ENVS[name]


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
