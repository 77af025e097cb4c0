"""What a benchmark ran on and which model it measured, so that two results can be told apart."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import struct
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from .records import Machine

PACKAGES = ("mlx-panel", "mlx", "mlx-lm")
HASH_LETTERS = 16
LONGEST_HEADER = 1 << 28


class Fingerprint(NamedTuple):
    """A model folder's hash and what its configuration says; empty where there is no model."""

    hash: str = ""
    architecture: str = ""
    dtype: str = ""


def machine() -> Machine:
    """This machine, and how busy it is now (load average of a minute)."""
    return Machine(
        cpu=_cpu(), cores=psutil.cpu_count() or 0, memory=psutil.virtual_memory().total, system=platform.platform(),
        python=platform.python_version(), load=round(psutil.getloadavg()[0], 2),
    )  # fmt: skip


def versions() -> dict[str, str]:
    """The installed versions of what matters here; a package that is missing is left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def fingerprint(folder: str) -> Fingerprint:
    """SHA-256 over a folder's `config.json` and the headers of its safetensors files, which name every tensor's type
    and shape; the weights themselves are not read, so models of equal form have one hash.

    16 hexadecimal digits. A folder that is none gives an empty fingerprint.
    """
    path = Path(folder).expanduser()
    if not folder or not (path / "config.json").is_file():
        return Fingerprint()
    digest = hashlib.sha256()
    try:
        content = (path / "config.json").read_bytes()
        digest.update(content)
        for file in sorted(path.glob("*.safetensors")):
            digest.update(f"\0{file.name} {file.stat().st_size}\0".encode() + _header(file))
        config = json.loads(content)
    except (OSError, ValueError):
        return Fingerprint()
    return Fingerprint(digest.hexdigest()[:HASH_LETTERS], str(config.get("model_type", "")), _dtype(config))


def _header(file: Path) -> bytes:
    with file.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
        return stream.read(min(size, LONGEST_HEADER))


def _dtype(config: dict[str, Any]) -> str:
    quantization = config.get("quantization")
    if isinstance(quantization, dict) and "bits" in quantization:
        return f"{quantization['bits']}-bit (group {quantization.get('group_size', '?')})"
    return str(config.get("torch_dtype") or config.get("dtype") or "")


@cache
def _cpu() -> str:
    """The processor's name, which Python's `platform` does not know on Linux and macOS."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
