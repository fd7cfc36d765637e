"""How episodes lie on disk: Minari's HDF5 layout, one group per episode, and an index of where each array starts.

Written here rather than through Minari's writer, which gives every array a resizable chunk of its own: three times
slower and six times larger for episodes as short as these. Minari reads the result like any other dataset.
"""

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5s, h5t

from omrlbench.envs.registry import MetaEnvSpec
from omrlbench.errors import BenchError

HDF5_NAME, INDEX_NAME = "main_data.hdf5", "index.npz"

Arrays = dict[str, np.ndarray]  # by name, all episodes stacked: (episodes, horizon, ...), zero after an episode's end
ATTRIBUTES = {
    "id": np.dtype("<i8"),
    "total_steps": np.dtype("<i8"),
    "options/task_id": np.dtype("<i8"),  # Minari's spelling of the reset option task_id
    "policy_step": np.dtype("<i8"),  # training step of the behaviour checkpoint
    "return": np.dtype("<f8"),  # of the environment's own reward
    "crc32": np.dtype("<i8"),  # see `checksums`
}


class DatasetError(BenchError, ValueError):
    """A dataset that is missing, damaged or cannot be written; one line that names the file."""


class DatasetWriteError(DatasetError):
    """A dataset that cannot be written."""

    exit_code = 1


def layout(spec: MetaEnvSpec) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of each array of an episode of full length T = `spec.horizon`, by its name in the file.

    One that ends earlier has fewer rows of each on disk: T steps, and T + 1 observations.
    """
    env = spec.make(0)
    steps = (spec.horizon,)
    flag, real = np.dtype(bool), np.dtype("<f4")
    return {
        "observations": ((spec.horizon + 1, *env.observation_space.shape), real),
        "actions": ((*steps, *env.action_space.shape), real),
        "rewards": (steps, real),
        "terminations": (steps, flag),
        "truncations": (steps, flag),
        **{f"infos/{kind}_reward": (steps, real) for kind in spec.rewards},
    }


def episode_lengths(arrays: Arrays) -> np.ndarray:
    """Steps of each episode up to its first end, int64 (episodes,); 0 for one without an end."""
    ends = arrays["terminations"] | arrays["truncations"]
    return np.where(ends.any(1), ends.argmax(1) + 1, 0)


def _rows(name: str, steps: int) -> int:
    """How many rows of the array `name` an episode of `steps` steps has."""
    return int(steps) + (name == "observations")


def checksums(arrays: Arrays, attributes: Arrays) -> np.ndarray:
    """CRC-32 of each episode's arrays and other attributes, int64 (episodes,). It tells which episode is damaged."""
    others = [values for name, values in attributes.items() if name != "crc32"]
    sums = [0] * len(attributes["id"])
    for values in [*arrays.values(), *others]:
        sums = [zlib.crc32(row.tobytes(), value) for row, value in zip(values, sums, strict=True)]
    return np.array(sums, np.int64)


def content_sha256(arrays: Arrays, task_ids: np.ndarray) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of all arrays and over the episodes' task ids."""
    digest = hashlib.sha256()
    for name, values in [*arrays.items(), ("task_id", np.asarray(task_ids, "<i8"))]:
        digest.update(json.dumps([name, values.dtype.str, values.shape]).encode())
        digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()


def write_episodes(folder: Path, arrays: Arrays, attributes: Arrays, on_episode: Callable[[int, int], None]) -> None:
    """Write the HDF5 file and its index into `folder`, calling `on_episode(done, total)` after each episode.

    `attributes` holds one number per episode under each name of `ATTRIBUTES`; what `arrays` hold after an episode's
    `total_steps` is not written. The file is built in memory, so that a full disk shows as a plain OSError.
    """
    episodes, lengths = len(attributes["id"]), attributes["total_steps"]
    offsets = {name: np.zeros(episodes, np.int64) for name in arrays}
    types = {name: h5t.py_create(values.dtype, logical=True) for name, values in (arrays | attributes).items()}
    scalar = h5s.create(h5s.SCALAR)
    image = io.BytesIO()
    with h5py.File(image, "w", libver=("v110", "v110")) as stored:
        for episode in range(episodes):
            group = stored.create_group(f"episode_{episode}").id
            h5g.create(group, b"infos")
            for name, values in arrays.items():
                content = values[episode, : _rows(name, lengths[episode])]
                array = h5d.create(group, name.encode(), types[name], h5s.create_simple(content.shape))
                array.write(h5s.ALL, h5s.ALL, content)
                offsets[name][episode] = array.get_offset()
            for name, values in attributes.items():
                h5a.create(group, name.encode(), types[name], scalar).write(values[episode, ...])
            on_episode(episode + 1, episodes)
    (folder / HDF5_NAME).write_bytes(image.getbuffer())
    with (folder / INDEX_NAME).open("wb") as file:
        np.savez(file, task_id=attributes["options/task_id"], total_steps=lengths, **offsets)


def read_indexed(folder: Path, spec: MetaEnvSpec) -> tuple[Arrays, np.ndarray]:
    """All arrays and the task id of each episode, read at the offsets of the index, which takes no time.

    Nothing is checked: compare the content hash before use. Raises OSError, KeyError, ValueError or BadZipFile where
    the files are damaged.
    """
    with np.load(folder / INDEX_NAME) as index, (folder / HDF5_NAME).open("rb", buffering=0) as file:
        task_ids = index["task_id"]
        # without lengths where it was written before episodes could end early
        lengths = index.get("total_steps", np.full(len(task_ids), spec.horizon))
        arrays = {name: np.zeros((len(task_ids), *shape), dtype) for name, (shape, dtype) in layout(spec).items()}
        for name, values in arrays.items():
            for row, steps, offset in zip(values, lengths, index[name], strict=True):
                content = row[: _rows(name, steps)]
                file.seek(offset)
                if file.readinto(content) != content.nbytes:
                    raise ValueError(f"{name} ends beyond the end of the file")
        return arrays, task_ids


def read_hdf5(file: Path, spec: MetaEnvSpec) -> tuple[Arrays, Arrays]:
    """All arrays and attributes, read through the HDF5 library with shape and dtype of every array checked.

    Raises DatasetError naming file, episode and reason.
    """
    forms = layout(spec)
    types = {name: h5t.py_create(dtype, logical=True) for name, (_, dtype) in forms.items()}
    with naming(file), h5py.File(file) as stored:
        episodes = len(stored)
        arrays = {name: np.zeros((episodes, *shape), dtype) for name, (shape, dtype) in forms.items()}
        attributes = {name: np.empty(episodes, dtype) for name, dtype in ATTRIBUTES.items()}
        for episode in range(episodes):
            with naming(f"{file}: episode {episode}"):
                group = h5g.open(stored.id, f"episode_{episode}".encode())
                for name, values in attributes.items():
                    h5a.open(group, name.encode()).read(values[episode, ...])
                steps = attributes["total_steps"][episode]
                if not 1 <= steps <= spec.horizon:
                    raise _Misfit(f"total_steps is {steps}, expected 1 to {spec.horizon}")
                for name, values in arrays.items():
                    array, content = h5d.open(group, name.encode()), values[episode, : _rows(name, steps)]
                    if array.shape != content.shape or array.get_type() != types[name]:
                        raise _Misfit(_difference(name, array, content))
                    array.read(h5s.ALL, h5s.ALL, content)
    return arrays, attributes


class _Misfit(Exception):
    """An array of another shape or dtype than the environment's."""


def _difference(name: str, array: h5d.DatasetID, wanted: np.ndarray) -> str:
    found = f"{name} is {array.dtype} {array.shape}, expected {wanted.dtype} {wanted.shape}"
    return f"{found} (one observation more than steps)" if name == "observations" else found


@contextmanager
def naming(place: str | Path) -> Iterator[None]:
    """Turn what reading damaged data raises into a DatasetError that begins with `place`."""
    try:
        yield
    except DatasetError:
        raise
    except _Misfit as error:
        raise DatasetError(f"{place}: {error}") from None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise DatasetError(f"{place}: cannot be read: {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    """The message of `error` without line breaks; of a failed system call just the reason."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
