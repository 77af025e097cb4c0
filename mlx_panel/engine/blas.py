"""Which BLAS library does float matmul on a CPU, and getting a fast one in place before mlx is imported.

mlx's Linux wheel for CPUs carries the reference BLAS, thirty times slower than OpenBLAS. The dynamic linker looks a
symbol up in the process's global scope first, so a library opened there with RTLD_GLOBAL before `mlx.core` is
imported takes the wheel's place; afterwards it is too late. This file never imports mlx.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import SettingsError
from ..messages import Blas

VARIABLE = "MLX_SERVER_BLAS"
CHOICES = ("auto", "mkl", "openblas", "reference")
# Threaded builds first: where a distribution ships several, the plain name is the one without threads.
OPENBLAS_NAMES = ("libopenblasp.so.0", "libopenblas.so.0", "libopenblaso.so.0")
SYSTEM_FOLDERS = ("/usr/local/lib", "/usr/lib64", "/usr/lib", "/lib64", "/lib", "/opt/OpenBLAS/lib")
INSTALLERS = {
    "apt-get": "sudo apt-get install libopenblas0-pthread",
    "dnf": "sudo dnf install openblas-threads",
    "pacman": "sudo pacman -S openblas",
}


def find() -> Blas:
    """What `preload()` would put in place in a new process; loads nothing. Raises SettingsError as `preload()` does."""
    settled = _settled()
    if settled is not None:
        return settled
    return next((_describe(path) for path in _candidates()), _reference())


def preload() -> Blas:
    """Put the fastest BLAS of this machine in place for mlx and say which it is.

    Where `mlx.core` is already imported nothing is loaded and the report says what it really uses. Raises
    SettingsError when MLX_SERVER_BLAS has an unknown value or asks for a library that cannot be loaded.
    """
    settled = _settled() or _imported()
    if settled is not None:
        return settled
    for path in _candidates():
        if _load(path):
            return _describe(path)
    return _reference()


def _settled() -> Blas | None:
    """The answer where there is nothing to choose: other platforms, or CUDA."""
    if sys.platform == "darwin":
        return Blas("Accelerate")
    if has_cuda():
        return Blas("cuBLAS")
    _choice(os.environ)
    return None


def _imported() -> Blas | None:
    """What this process uses, once mlx is imported: then it is too late to choose."""
    return _in_use() if "mlx.core" in sys.modules else None


def has_cuda() -> bool:
    """Whether mlx is installed with its CUDA backend; imports nothing."""
    return any(any(Path(entry).glob("mlx_cuda*.dist-info")) for entry in sys.path if entry)


def _choice(environment: Mapping[str, str]) -> str:
    choice = environment.get(VARIABLE, "auto").strip().lower() or "auto"
    if choice not in CHOICES:
        raise SettingsError(f"{VARIABLE} is {choice!r}; it can be {', '.join(CHOICES)}.")
    return choice


def _candidates() -> Iterator[Path]:
    """Libraries to try, best first. One that was asked for by name and is not there raises SettingsError."""
    choice = _choice(os.environ)
    if choice in ("auto", "mkl"):
        yield from _mkl_files()
    if choice in ("auto", "openblas"):
        yield from _openblas_files()
    if choice in ("mkl", "openblas"):
        fix = "pip install mkl" if choice == "mkl" else _installer()
        raise SettingsError(f"{VARIABLE} asks for {choice}, which cannot be loaded here. Install it: {fix}")


def _mkl_files() -> Iterator[Path]:
    yield from sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*"), reverse=True)
    try:
        files = importlib.metadata.files("mkl") or []
    except importlib.metadata.PackageNotFoundError:
        return
    yield from (Path(str(file.locate())).resolve() for file in files if file.name.startswith("libmkl_rt.so"))


def _openblas_files() -> Iterator[Path]:
    for folder in _library_folders():
        for name in OPENBLAS_NAMES:
            if (folder / name).exists():
                yield folder / name


def _library_folders() -> list[Path]:
    """Where the dynamic linker would look, plus this environment's own `lib` (conda)."""
    named = [entry for entry in os.environ.get("LD_LIBRARY_PATH", "").split(":") if entry]
    triplet = getattr(sys.implementation, "_multiarch", "")
    multiarch = [f"/usr/lib/{triplet}", f"/lib/{triplet}"] if triplet else []
    return [Path(entry) for entry in (*named, f"{sys.prefix}/lib", *multiarch, *SYSTEM_FOLDERS)]


def _load(path: Path) -> bool:
    """Open a library for every later one to see; False where it cannot be, or is no BLAS with a C interface."""
    try:
        return hasattr(ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL), "cblas_sgemm")
    except OSError:
        return False


def _in_use() -> Blas:
    """The library mlx's calls reach: what the global scope offers, else what mlx itself is linked with."""
    mapped = _mapped()
    path = _owner(mapped) or next((p for _, _, p in mapped if _is_fast(p)), None)
    bundled = any("mlx_cpu.libs/libblas" in file for _, _, file in mapped)
    if path is None or (bundled and _owner(mapped) is None):
        return _reference()
    return _describe(Path(path))


def _mapped() -> list[tuple[int, int, str]]:
    """(start, end, file) of every file mapped into this process."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, file = line.split(maxsplit=5)
        if file.startswith("/"):
            start, end = (int(edge, 16) for edge in span.split("-"))
            found.append((start, end, file))
    return found


def _owner(mapped: list[tuple[int, int, str]]) -> str | None:
    """The file whose `cblas_sgemm` a newly loaded library would be bound to, None without one."""
    everything = ctypes.CDLL(None)
    if not hasattr(everything, "cblas_sgemm"):
        return None
    address = ctypes.cast(everything.cblas_sgemm, ctypes.c_void_p).value or 0
    return next((file for start, end, file in mapped if start <= address < end), None)


def _is_fast(path: str | Path) -> bool:
    return re.match(r"lib(openblas|mkl_)", Path(path).name) is not None


def _describe(path: Path) -> Blas:
    real = path.resolve()
    if not _is_fast(real):
        return Blas(f"{real.name.split('.')[0].removeprefix('lib')} BLAS", str(real), fast=False, fix=_fix())
    if "mkl" in real.name:
        return Blas(f"MKL {_mkl_version()}".strip(), str(real))
    version = re.search(r"-r(\d+(?:\.\d+)*)", real.name)
    return Blas(f"OpenBLAS {version[1] if version else ''}".strip(), str(real))


def _mkl_version() -> str:
    try:
        return importlib.metadata.version("mkl")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _reference() -> Blas:
    return Blas("reference BLAS", fast=False, fix=_fix())


def _fix() -> str:
    if _choice(os.environ) == "reference":
        return f"unset {VARIABLE}"
    if _is_installed():
        return "call mlx_panel.engine.blas.preload() before mlx is imported"
    return f"{_installer()}   (or: pip install mkl)"


def _is_installed() -> bool:
    return next(_mkl_files(), None) is not None or next(_openblas_files(), None) is not None


def _installer() -> str:
    return next((line for tool, line in INSTALLERS.items() if shutil.which(tool)), "install OpenBLAS")
