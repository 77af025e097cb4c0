"""Imports point down only (`docs/architecture.md`): the strata of the house, enforced."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mlx_panel"
# Each part with its height; a module may import parts that are lower, and its own.
HEIGHT = {
    "tuning": -1, "request": -1, "library": -1, "preset": -1, "sizing": -1, "footprint": 0, "architecture": 0, "errors": 0, "secret": 0, "sandbox": -1, "record": -0.5, "messages": 0, "analytics": 0.2, "inquiry": 0.2, "snapshot": 0.1, "site": 0, "meter": 1, "parse": 1, "cache_log": 1.2, "engine_settings": 1.2, "pool_settings": 1.3, "audit_settings": 1.3, "preset_text": 1.2, "aliases": 1.2, "presets": 1.6, "settings": 1.5, "engine": 2, "worker": 3,
    "pool": 3, "hub": 3, "audit": 3, "bench": 4, "sampler": 4, "probe": 4, "job": 4.2, "benches": 4.5, "prove": 4.7, "http": 5, "dashboard": 5, "live": 4, "app": 6, "ending": 7, "plugin": 8, "serve": 9, "host": 10, "audit_access": 4.6, "notebook_sql": 10.8, "notebook_audit": 10.9, "audit_command": 11.5, "notebook": 11,
    "chat": 2, "cli": 12, "__init__": 12, "__main__": 13,
}  # fmt: skip
# The file `panel serve` runs builds the page from the running server: it is an entry point that lies in dashboard/.
ENTRY_POINTS = {"dashboard/main.py"}
HEAVY = {
    "engine": {"tornado", "panel", "duckdb", "bokeh"},
    "audit": {"mlx", "mlx_lm"},
    "http": {"panel", "mlx", "mlx_lm"},
    "pool": {"mlx", "mlx_lm", "tornado", "panel"},
    "worker": {"tornado", "panel", "duckdb"},
    "cli": {"panel", "mlx", "tornado"},
    "bench": {"tornado", "panel"},
}
LAZY_ALLOWED = {
    "__init__.py",
    "cli.py",
    "audit_command.py",
    "worker.py",
    "hub/command.py",
    "hub/demo.py",
    "engine/engine.py",
    "engine/loader.py",
    "bench/command.py",
    "notebook.py",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def part(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> list[tuple[str, bool]]:
    """Absolute names a file imports, each with whether it is inside a function."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    base = ["mlx_panel", *file.relative_to(PACKAGE).parts[:-1]]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = base[: len(base) - node.level + 1] if node.level else []
            stem = ".".join([*above, *([node.module] if node.module else [])])
            found += [(f"{stem}.{alias.name}", id(node) in inside) for alias in node.names]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file: Path) -> None:
    name = str(file.relative_to(PACKAGE))
    if name in ENTRY_POINTS:
        return
    mine = part(file)
    for target, lazy in imports(file):
        first = target.split(".")
        if first[0] != "mlx_panel":
            assert first[0] not in HEAVY.get(mine, ()) or lazy, f"{name} imports {target}"
            continue
        other = first[1] if len(first) > 1 and first[1] in HEIGHT else "__init__"
        down = HEIGHT[other] < HEIGHT[mine] or other == mine or target == "mlx_panel.__version__"
        assert down, f"{name} ({mine}) imports {target} ({other})"
        assert not lazy or name in LAZY_ALLOWED, f"{name} imports {target} inside a function"


def test_every_part_has_its_height() -> None:
    assert {part(file) for file in FILES} <= set(HEIGHT)


def test_files_and_functions_are_small() -> None:
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 400, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 40, f"{file}: {node.name}"


def test_broad_excepts_stand_at_the_borders_only() -> None:
    allowed = {"http/endpoint.py", "audit/store.py", "worker.py", "engine/engine.py", "dashboard/feed.py"}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            ):
                assert str(file.relative_to(PACKAGE)) in allowed, file
