"""Which architectures the installed mlx-lm has a module for, found without importing it: that would bring mlx along."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = "mlx_lm"
# A module that defines these, or has them from another, can be loaded as a model.
MODEL = re.compile(r"^class Model\b|^from \.\w+ import .*\bModel\b", re.MULTILINE)
# Modules that end the process where a package that mlx-lm does not bring is missing.
NEEDS = {"olmo": "hf_olmo"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
Pairs = Mapping[tuple[str, str], str]


class Architectures:
    """The modules in mlx-lm's `models` folder and its two tables of other names, read when they are first asked for.

    `package` is the folder of mlx-lm, None for the installed one.
    """

    def __init__(self, package: Path | None = None):
        self.package = package or _installed()
        self._modules: frozenset[str] | None = None
        self._names: Mapping[str, str] = {}
        self._pairs: Pairs = {}

    def __repr__(self) -> str:
        return f"<Architectures of {self.package}>"

    @property
    def version(self) -> str:
        try:
            return metadata.version("mlx-lm")
        except metadata.PackageNotFoundError:
            return ""

    def module(self, config: Mapping[str, Any]) -> str:
        """The module that mlx-lm would take for a config; "" where it has none."""
        if self._modules is None:
            self._look()
        family = str(config.get("model_type") or "")
        given = config.get("architectures")
        classes = given if isinstance(given, list | tuple) else (given,)
        named = (self._pairs.get((family, one)) for one in classes if isinstance(one, str))
        found = next((name for name in named if name), self._names.get(family, family))
        if found in NEEDS and importlib.util.find_spec(NEEDS[found]) is None:
            return ""
        return found if self._modules and found in self._modules else ""

    def _look(self) -> None:
        """Blocks."""
        self._modules = frozenset()
        if self.package is None:
            return
        files = (self.package / "models").glob("*.py")
        self._modules = frozenset(
            file.stem for file in files if NAME.fullmatch(file.stem) and _is_model(file)
        )
        tables = _tables(self.package / "utils.py")
        self._names = tables.get("MODEL_REMAPPING", {})
        self._pairs = tables.get("MODEL_ARCHITECTURE_REMAPPING", {})


def _installed() -> Path | None:
    # A name without a dot: looking for `mlx_lm.models` would import `mlx_lm`.
    spec = importlib.util.find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places))) if places else None


def _is_model(file: Path) -> bool:
    try:
        return bool(MODEL.search(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        return False


def _tables(file: Path) -> dict[str, Any]:
    """The literal dicts of a module, by name."""
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, UnicodeDecodeError):
        return {}
    found = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id.endswith("REMAPPING"):
                    found[target.id] = ast.literal_eval(node.value)
    return found
