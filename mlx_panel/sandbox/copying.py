"""A copy of a DuckDB file that another process has open, and whether it is of one moment.

It is made in a process of its own: were the server to open and close its own database file, the system would drop the
lock that DuckDB holds on it (POSIX record locks belong to the process, not to the descriptor).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import sys

# From linux/fs.h: share the blocks of a file, where the file system can (Btrfs, XFS, bcachefs).
FICLONE = 0x40049409
# DuckDB's main header and the two headers of which a checkpoint rewrites one, when all it wrote is on the disk. The
# blocks that the newer one names are not written to before the checkpoint after it.
HEADERS = 3 * 4096
CHUNK = 8 << 20
NOT_HERE = (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EBADF, errno.EPERM)


def copy(source: str, target: str) -> tuple[int, bool]:
    """Copy `source` to the new file `target`, mode 0600: its size, and whether no checkpoint ended meanwhile.

    Raises OSError; there is no `target` then.
    """
    have = os.open(source, os.O_RDONLY)
    try:
        before = os.pread(have, HEADERS, 0)
        try:
            size = _clone(source, target) or _plain(have, target)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target)
            raise
        return size, os.pread(have, HEADERS, 0) == before
    finally:
        os.close(have)


def _clone(source: str, target: str) -> int:
    """Bytes of a copy that shares its blocks with the original; 0 where the system knows no such thing."""
    if sys.platform != "darwin":
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.clonefile(os.fsencode(source), os.fsencode(target), 0) != 0:
        return 0
    os.chmod(target, 0o600)
    return os.stat(target).st_size


def _plain(have: int, target: str) -> int:
    made = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        size = os.fstat(have).st_size
        if not _shared(have, made):
            _by_system(have, made, size) or _by_hand(have, made, size)
        return size
    finally:
        os.close(made)


def _shared(have: int, made: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(made, FICLONE, have)
    except OSError as error:
        if error.errno in NOT_HERE:
            return False
        raise
    return True


def _by_system(have: int, made: int, size: int) -> bool:
    """Copy inside the kernel; False where it cannot, nothing was written then."""
    if sys.platform != "linux":
        return False
    done = 0
    while done < size:
        try:
            count = os.copy_file_range(have, made, size - done, done, done)
        except OSError as error:
            if done == 0 and error.errno in NOT_HERE:
                return False
            raise
        if count == 0:
            break
        done += count
    return True


def _by_hand(have: int, made: int, size: int) -> bool:
    done = 0
    while done < size and (piece := os.pread(have, min(CHUNK, size - done), done)):
        done += os.pwrite(made, piece, done)
    return True
