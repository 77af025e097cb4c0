"""What a process takes of the machine's memory, seen from outside or from itself. No mlx."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path

import psutil

# From sys/resource.h of macOS: `proc_pid_rusage` with flavour 4 fills a `struct rusage_info_v4`, a uuid of 16 bytes and
# then 64-bit numbers, of which `ri_phys_footprint` is the eighth.
FLAVOUR, UUID_BYTES, PHYS_FOOTPRINT, INFO_BYTES = 4, 16, 7, 512
# What of a process's memory nothing but its end, or the process itself, gives back.
OWN = ("RssAnon", "RssShmem", "VmSwap")


def footprint(pid: int) -> int:
    """Bytes that a process takes and that come back when it ends; 0 when it is gone.

    On macOS the physical footprint, by which the system decides whom to end when memory is short. On Linux resident
    memory without the pages of files (libraries, shared by all workers and dropped when memory is short), plus what was
    swapped out, which is the same idea: what the machine has more of once the process has ended is that, and not RSS.
    Elsewhere RSS.
    """
    if sys.platform == "darwin":
        return _physical(pid)
    return _own(pid) if sys.platform == "linux" else _resident(pid)


def _own(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(fields[name].split()[0]) << 10 for name in OWN if name in fields)


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _physical(pid: int) -> int:
    info = ctypes.create_string_buffer(INFO_BYTES)
    if _libproc().proc_pid_rusage(ctypes.c_int(pid), ctypes.c_int(FLAVOUR), info) != 0:
        return 0
    return ctypes.c_uint64.from_buffer(info, UUID_BYTES + 8 * PHYS_FOOTPRINT).value


@functools.cache
def _libproc() -> ctypes.CDLL:
    return ctypes.CDLL("/usr/lib/libproc.dylib")


def trim() -> None:
    """Give memory that was freed back to the machine, where the C library keeps it (glibc: `malloc_trim`)."""
    if sys.platform == "linux":
        release = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if release is not None:
            release(0)
