"""What can go wrong in a foreseen way: one line for people, and the exit code of the command."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches

FILE_ERRORS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
)


class BenchError(Exception):
    """Wrong input: `str(error)` is one line that names the thing and what is allowed."""

    exit_code = 2


class Diverged(BenchError):
    """The learner's numbers left the finite range."""

    exit_code = 3


class RunBusy(BenchError):
    """Another process is working on the same run."""

    exit_code = 4


class Interrupted(BenchError):
    """Stopped by a signal with its state kept: the same command goes on from there."""

    exit_code = 130


def unusable_file(error: BaseException) -> str | None:
    """In one line which file cannot be read or written and why, None where that is not what `error` tells."""
    if not isinstance(error, OSError) or error.errno not in FILE_ERRORS:
        return None
    return f"cannot use {error.filename or 'the output'}: {error.strerror}"


def unknown(kind: str, given: str, allowed: Iterable[str]) -> BenchError:
    """The error for a name that does not exist, with the closest one that does and all that are allowed."""
    allowed = list(allowed)
    close = get_close_matches(given, allowed, n=1)
    hint = f" did you mean {close[0]}?" if close else ""
    return BenchError(f"unknown {kind} {given!r}:{hint} choose from {', '.join(allowed) or '(there are none)'}")
