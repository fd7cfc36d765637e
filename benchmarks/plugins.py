"""What other packages add: their entry points of a group, by name."""

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any


def plugins(group: str) -> dict[str, list[EntryPoint]]:
    """Entry points by name; more than one where distributions claim the same name."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, []).append(point)
    return found


def origin(points: Sequence[EntryPoint], built_in: bool) -> str:
    """Where the name of `points` comes from. Imports nothing."""
    if built_in:
        return f"built in; the one of this name in {distributions(points)} is ignored"
    return distributions(points) if len(points) == 1 else f"unusable: claimed by {distributions(points)}"


def load_plugin(kind: str, points: Sequence[EntryPoint]) -> Any:
    """The one of `points`. Raises ValueError, one line that begins with the `kind`, for several or a broken one."""
    name, origins = points[0].name, distributions(points)
    if len(points) > 1:
        raise ValueError(f"{kind} {name!r} is claimed by {origins}: uninstall one of them")
    try:
        return points[0].load()
    except Exception as error:
        raise ValueError(f"{kind} {name!r} of {origins} is broken: {type(error).__name__}: {error}") from error


def distributions(points: Sequence[EntryPoint]) -> str:
    return " and ".join(point.dist.name if point.dist else point.value for point in points)
