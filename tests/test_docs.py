"""The documents say what the program does: whatever it offers by name appears where a person would look for it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import param
import pytest
from panel.command.serve import Serve

from mlx_panel import chat, cli
from mlx_panel.errors import MlxPanelError, status_of
from mlx_panel.http import openai_chat, openai_completions
from mlx_panel.http.fallback import Fallback
from mlx_panel.http.openai_messages import MESSAGE_FIELDS, MESSAGE_UNSUPPORTED, OTHER_PARTS, ROLES
from mlx_panel.http.routes import MODULES
from mlx_panel.messages import AuditRecord, ModelState, Sample, Snapshot
from mlx_panel.serve import MlxServe
from mlx_panel.settings import LIVE_TIMEOUTS, PREFIX, Settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BUILD = ["Makefile", "pyproject.toml", "constraints.txt", ".ci/run", ".github/workflows/*"]
ELSEWHERE = re.compile(
    r"(?<![\w.])/work/|pypi\.org|pythonhosted\.org|index-url|index_url|\bdevpi\b|artifactory", re.I
)
ENDPOINTS = [handler for module in MODULES for _, handler in module.routes if handler is not Fallback]
PARAMETERS = [name for name in Settings.param if name != "name"]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def row(page: str, first: str) -> str:
    """The table row that begins with a name."""
    rows = [line for line in text(page).splitlines() if line.startswith(f"| `{first}` |")]
    assert len(rows) == 1, f"{page} has {len(rows)} rows about {first}"
    return rows[0]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.route)
def test_every_route_has_its_methods(endpoint: type) -> None:
    rows = [
        line for line in text("docs/api.md").splitlines() if f"`{endpoint.route}`" in line and "|" in line
    ]
    assert any(all(verb in line for verb in endpoint.verbs) for line in rows)


@pytest.mark.parametrize("dialect", [openai_chat.ChatBody, openai_completions.CompletionBody])
def test_every_field_taken_is_named(dialect: type) -> None:
    for field in msgspec.structs.fields(dialect):
        assert f"`{field.encode_name}`" in text("docs/api.md"), field.encode_name


@pytest.mark.parametrize("name", ["Chat completions", "Completions"])
def test_every_field_refused_is_named(name: str) -> None:
    section = re.split(r"^## ", text("docs/api.md"), flags=re.M)
    found = next(part for part in section if part.startswith(f"{name}\n"))
    dialect = openai_chat if name == "Chat completions" else openai_completions
    assert {field for field in dialect.VOCABULARY.unsupported if f"`{field}`" not in found} == set()


def test_every_word_of_a_message_is_named() -> None:
    words = {
        *openai_chat.VOCABULARY.without_effect,
        *MESSAGE_FIELDS,
        *MESSAGE_UNSUPPORTED,
        *OTHER_PARTS,
        *ROLES,
    }
    assert {word for word in words if f"`{word}`" not in text("docs/api.md")} == set()


@pytest.mark.parametrize("struct", [Snapshot, ModelState, Sample], ids=lambda struct: struct.__name__)
def test_every_live_figure_is_named(struct: type) -> None:
    assert {
        name for name in struct.__struct_fields__ if not re.search(rf"\b{name}\b", text("docs/api.md"))
    } == set()


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_setting_has_its_variable_default_and_bounds(name: str) -> None:
    line, kind = row("docs/settings.md", name), Settings.param[name]
    assert f"`{PREFIX}{name.upper()}`" in line
    if isinstance(kind, param.List):
        assert all(f"`{item}`" in line for item in kind.default) and (kind.default or "| none |" in line)
    else:
        assert f"| `{kind.default}` |" in line
    if isinstance(kind, param.Number):
        assert all(f"{bound:,}" in line or str(bound) in line for bound in kind.bounds)
    if isinstance(kind, param.Selector):
        assert all(f"`{choice}`" in line for choice in kind.objects)
    assert (name in LIVE_TIMEOUTS) == ("Live." in line or line.endswith("Live |"))


def test_no_setting_is_made_up() -> None:
    named = set(re.findall(rf"`{PREFIX}(\w+)`", text("docs/settings.md")))
    assert named == {name.upper() for name in PARAMETERS} | {"DATA_DIR", "BLAS"}


def errors(root: type[MlxPanelError] = MlxPanelError) -> Iterator[type[MlxPanelError]]:
    assert chat.Refused in MlxPanelError.__subclasses__()  # imported with its module
    yield root
    for child in root.__subclasses__():
        if child.__module__.startswith("mlx_panel."):
            yield from errors(child)


@pytest.mark.parametrize("error", errors(), ids=lambda error: error.code)
def test_every_error_has_its_row(error: type[MlxPanelError]) -> None:
    assert f"| `{error.code}` | `{error.__name__}` | {status_of(error())} |" in row(
        "docs/errors.md", error.code
    )


@pytest.mark.parametrize("column", AuditRecord.__struct_fields__)
def test_every_audit_column_has_its_row(column: str) -> None:
    assert row("docs/audit.md", column)


def commands(parser: argparse.ArgumentParser, path: str = "mlx-panel") -> Iterator[tuple[str, list[str]]]:
    """Every command that does something, with its flags."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    flags = [
        flag
        for action in parser._actions
        for flag in action.option_strings
        if len(flag) > 2 and flag != "--help"
    ]
    if not inner or flags:
        yield path, flags
    for action in inner:
        for name, child in action.choices.items():
            yield from commands(child, f"{path} {name}")


@pytest.mark.parametrize(("command", "flags"), commands(cli._parser()), ids=str)
def test_every_command_has_its_row_in_the_readme(command: str, flags: list[str]) -> None:
    ours = (
        [flag for flag, spec in MlxServe.args if (flag, spec) not in Serve.args]
        if command == "mlx-panel serve"
        else flags
    )
    rows = [line for line in text("README.md").splitlines() if line.startswith(f"| `{command}")]
    assert len(rows) == 1
    assert [flag for flag in ours if flag not in rows[0]] == []


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), flags=re.M))
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", text("README.md"), flags=re.M))
    assert {"serve", "test"} <= named <= targets


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    content = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", content)
    for link in filter(lambda link: "://" not in link, (one or other for one, other in links)):
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_nothing_points_to_the_place_it_was_made_in() -> None:
    files = [*PAGES, *(file for pattern in BUILD for file in ROOT.glob(pattern))]
    assert [file.name for file in files if ELSEWHERE.search(file.read_text(encoding="utf-8"))] == []
