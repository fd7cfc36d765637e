"""What a run asks of its process: a lock, a device, deterministic kernels on one thread, time to save."""

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from omrlbench.errors import BenchError, RunBusy


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the run whose record is `path`; the operating system frees the lock if the process dies."""
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0):
            yield
    except Timeout:
        raise RunBusy(f"another process is working on this run: {path}") from None


@contextmanager
def deterministic() -> Iterator[None]:
    """One thread, deterministic kernels, and the caller's random state left alone.

    For speed alone, new tensors are not filled before they are written, and the garbage collector passes over what
    exists already.
    """
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what CUDA asks for
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False
    gc.freeze()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        gc.unfreeze()
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.set_deterministic_debug_mode(mode)
        torch.set_num_threads(threads)


@contextmanager
def keyboard_withheld() -> Iterator[None]:
    """Processes that start inside never see Ctrl-C, which a terminal sends to all: who started them tells them to stop.

    One that arrives meanwhile reaches this process afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # whose start would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopSignal:
    """Inside, the first SIGINT or SIGTERM sets `requested`; a second one acts as usual."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self._request) for number in self.SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def _request(self, number: int, frame: Any) -> None:
        self.requested = True
        self.__exit__()


def check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise BenchError(f"device {device!r} is not available here") from None
