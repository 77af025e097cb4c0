"""The BLAS is really in place: every check runs in a process of its own, as the choice is made once a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from mlx_panel.engine import blas

linux_cpu = pytest.mark.skipif(
    sys.platform != "linux" or blas.find().name == "cuBLAS", reason="the choice exists on a Linux CPU only"
)

REPORT = """
import json, pathlib, sys
from mlx_panel.engine import blas
found = blas.find()
assert not any("openblas" in line or "mkl_rt" in line for line in open("/proc/self/maps"))
{before}
used = blas.preload()
assert ("mlx.core" in sys.modules) == {imported}
import mlx.core as mx
import numpy as np
a = np.random.default_rng(0).standard_normal((70, 90)).astype(np.float32)
error = float(np.abs(np.array(mx.array(a) @ mx.array(a.T)) - a @ a.T).max())
maps = pathlib.Path("/proc/self/maps").read_text()
print(json.dumps([found.name, used.name, used.fast, used.path, used.path in maps, error, blas.preload().name]))
"""


def report(before: str = "", imported: bool = False, **environment: str) -> list:
    code = REPORT.format(before=before, imported=imported)
    out = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, check=True
    )
    return json.loads(out.stdout)


@linux_cpu
def test_preload_puts_what_find_promises_in_place():
    found, used, fast, path, mapped, error, afterwards = report(MLX_SERVER_BLAS="auto")
    assert found == used == afterwards
    assert fast == bool(path)
    assert mapped
    assert error < 1e-4


@linux_cpu
def test_reference_can_be_chosen():
    found, used, fast, path, _, error, _ = report(MLX_SERVER_BLAS="reference")
    assert (found, used, fast, path) == ("reference BLAS", "reference BLAS", False, "")
    assert error < 1e-4


@linux_cpu
def test_after_mlx_is_imported_the_report_is_the_truth():
    _, used, *_ = report("import mlx.core", imported=True, MLX_SERVER_BLAS="auto")
    in_place = report("blas.preload(); import mlx.core", imported=True, MLX_SERVER_BLAS="auto")
    assert used == "reference BLAS"
    assert in_place[0] == in_place[1]


@linux_cpu
def test_reference_names_the_fix(monkeypatch):
    monkeypatch.setenv("MLX_SERVER_BLAS", "reference")
    assert blas.find().fix == "unset MLX_SERVER_BLAS"


@linux_cpu
def test_an_unknown_choice_is_refused(monkeypatch):
    monkeypatch.setenv("MLX_SERVER_BLAS", "atlas")
    with pytest.raises(blas.SettingsError, match="auto, mkl, openblas, reference"):
        blas.find()


@linux_cpu
def test_a_choice_that_is_not_installed_is_refused():
    code = "from mlx_panel.engine import blas\ntry: blas.preload()\nexcept blas.SettingsError as e: print(e)"
    environment = {**os.environ, "MLX_SERVER_BLAS": "mkl"}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "pip install mkl" in out.stdout or blas.find().name.startswith("MKL")
