"""Repeating a recorded run: its configuration, if it means the same in this installation, and what came out."""

from dataclasses import replace
from pathlib import Path

from omrlbench.config import RunConfig, check_installed
from omrlbench.errors import BenchError
from omrlbench.record import RunRecord


def recorded_config(path: Path, record: RunRecord) -> RunConfig:
    """The configuration of the record at `path`, complete with sources.

    Raises BenchError, one line, that names what differs if it cannot be repeated here.
    """
    try:
        config = replace(RunConfig.from_dict(record.config), sources=record.sources)
        check_installed(config)
    except BenchError as error:
        raise BenchError(f"{path} cannot be repeated here: {error}") from None
    except (AttributeError, KeyError, TypeError) as error:
        raise BenchError(f"{path} is not as its run wrote it: {type(error).__name__}: {error}") from None
    if config.fingerprint != record.config["fingerprint"]:
        raise BenchError(f"{path} was changed by hand: its config does not have its fingerprint")
    return config


def differing_keys(first: RunRecord, second: RunRecord) -> dict[str, list[str]]:
    """The keys of `config` and of `result` whose values are not the same in both."""
    sections = {name: (getattr(first, name), getattr(second, name)) for name in ("config", "result")}
    return {
        name: [key for key in one | other if one.get(key) != other.get(key)] for name, (one, other) in sections.items()
    }
