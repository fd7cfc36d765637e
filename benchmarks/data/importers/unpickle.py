"""Reading pickles that hold numbers, without running what else they may hold.

A pickle is a program: it names functions and calls them. Here the few names that numpy's own pickles use are replaced
by the functions below, and any other name is refused before anything is called. A list of numpy's own functions would
not do: `numpy.ndarray` and `numpy.dtype`, called as a pickle may call them, turn bytes into pointers.
"""

import gzip
import pickle
import re
from collections import OrderedDict
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from omrlbench.data.episodes import DatasetError, naming, one_line

NUMBERS = re.compile(r"[biufSU]\d+|O8?")  # dtypes: booleans, numbers, text, and arrays of arrays
NDARRAY = object()  # stands for the type, which a pickle passes on but must not call


class _DType:
    """What a pickle says of a dtype."""

    def __init__(self, code: str, *_copying: Any):
        if not (isinstance(code, str) and NUMBERS.fullmatch(code)):
            raise pickle.UnpicklingError(f"it asks for the dtype {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that checks what a pickle fills it with."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, content = state
        dtype = _plain(kind)
        size = prod(shape) if all(isinstance(length, int) and length >= 0 for length in shape) else None
        of_right_type = isinstance(content, list if dtype.hasobject else bytes)
        if not of_right_type or len(content) != size * (1 if dtype.hasobject else dtype.itemsize):
            raise pickle.UnpicklingError("it holds an array whose content does not have the array's size")
        super().__setstate__((1, shape, dtype, bool(fortran), content))


def _plain(kind: Any) -> np.dtype:
    if not isinstance(kind, _DType):
        raise pickle.UnpicklingError("it holds an array without a dtype")
    return kind.dtype


def _reconstruct(kind: object, *_shape_and_code: Any) -> np.ndarray:
    if kind is not NDARRAY:
        raise pickle.UnpicklingError("it holds an array of another class than numpy's")
    return np.empty(0, np.int8).view(_Array)


def _frombuffer(content: bytes, kind: _DType, shape: tuple, order: str) -> np.ndarray:
    return np.frombuffer(content, _plain(kind)).reshape(shape, order=order)


def _scalar(kind: _DType, content: bytes) -> Any:
    (value,) = np.frombuffer(content, _plain(kind))
    return value


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2, which has no bytes, writes them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


NAMES = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): _DType,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda: b"",  # how protocol 2 writes empty ones
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")  # before and since numpy 2
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}


class NumbersUnpickler(pickle.Unpickler):
    """Builds Python's plain types and numpy's arrays and scalars, and refuses anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only numpy's numbers are read")
        return NAMES[module, name]


def _load(file: Path, stream: IO[bytes]) -> Any:
    """The object in `stream`. A damaged or foreign pickle may raise anything; all of it becomes a DatasetError."""
    try:
        return NumbersUnpickler(stream).load()
    except Exception as error:
        raise DatasetError(f"{file}: the pickle is not read: {one_line(error)}") from None


def check_allowed(file: Path, allow_pickle: bool) -> None:
    if not allow_pickle:
        raise DatasetError(
            f"{file}: is a pickle, which can be a harmful program; --allow-pickle reads it, refusing all but numbers"
        )


def read_pickle(file: Path, allow_pickle: bool) -> Any:
    """The object in a pickle, compressed by gzip or not."""
    check_allowed(file, allow_pickle)
    with file.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    with gzip.open(file) if compressed else file.open("rb") as stream:
        return _load(file, stream)


def read_npy(file: Path, allow_pickle: bool) -> np.ndarray:
    """The array in an .npy file. One of objects is a header before a pickle and needs `allow_pickle`."""
    with naming(file), file.open("rb") as stream:
        shape, _, dtype = _header(stream)
        if not dtype.hasobject:
            return np.load(file, allow_pickle=False)
        check_allowed(file, allow_pickle)
        array = _load(file, stream)
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise DatasetError(f"{file}: the array is not the one that its header describes")
    return array


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(stream)
    return npy.read_array_header_1_0(stream) if version == (1, 0) else npy.read_array_header_2_0(stream)
