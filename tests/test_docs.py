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
from mlx_panel.engine_settings import EDITABLE, RELOAD
from mlx_panel.errors import MlxPanelError, status_of
from mlx_panel.http import openai_chat, openai_completions
from mlx_panel.http.fallback import Fallback
from mlx_panel.http.openai_messages import MESSAGE_FIELDS, MESSAGE_UNSUPPORTED, NO_EFFECT, OTHER_PARTS, ROLES
from mlx_panel.http.routes import MODULES
from mlx_panel.job import Job, Level, Order, Stored
from mlx_panel.messages import AuditRecord
from mlx_panel.serve import MlxServe
from mlx_panel.settings import LIVE_TIMEOUTS, PREFIX, Settings
from mlx_panel.snapshot import ModelState, Snapshot
from mlx_panel.tuning import CacheFigures, CacheRecord, CacheReport, Option

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BUILD = ("Makefile", "pyproject.toml", "constraints.txt", ".ci/run", ".github/workflows/*")
ELSEWHERE = re.compile(r"(?<![\w.])/work/|pypi\.org|pythonhosted\.org|index-url|index_url|artifactory", re.I)
ENDPOINTS = [handler for module in MODULES for _, handler in module.routes if handler is not Fallback]
PARAMETERS = [name for name in Settings.param if name != "name"]
DIALECTS = {
    "Chat completions": (openai_chat.ChatBody, openai_chat.VOCABULARY),
    "Completions": (openai_completions.CompletionBody, openai_completions.VOCABULARY),
}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def row(page: str, first: str) -> str:
    """The one table row whose first cell begins with a name."""
    rows = [line for line in text(page).splitlines() if re.match(rf"\| `{re.escape(first)}[` ]", line)]
    assert len(rows) == 1, f"{page} has {len(rows)} rows about {first}"
    return rows[0]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.route)
def test_every_route_has_its_methods(endpoint: type) -> None:
    rows = [line for line in text("docs/api.md").splitlines() if re.match(rf"\|.*`{endpoint.route}`", line)]
    assert any(all(verb in line for verb in endpoint.verbs) for line in rows)


@pytest.mark.parametrize("title", DIALECTS)
def test_every_field_is_named(title: str) -> None:
    sections = re.split(r"^## ", text("docs/api.md"), flags=re.M)
    section = next(part for part in sections if part.startswith(f"{title}\n"))
    body, vocabulary = DIALECTS[title]
    names = {*vocabulary.unsupported, *(field.encode_name for field in msgspec.structs.fields(body))}
    assert {name for name in names if f"`{name}`" not in section} == set()


def test_every_other_word_is_named() -> None:
    words = {*NO_EFFECT, *MESSAGE_FIELDS, *MESSAGE_UNSUPPORTED, *OTHER_PARTS, *ROLES}
    for struct in (
        Snapshot,
        ModelState,
        CacheFigures,
        CacheReport,
        CacheRecord,
        Option,
        Order,
        Job,
        Level,
        Stored,
    ):
        words |= set(struct.__struct_fields__)
    page = text("docs/api.md")
    assert {word for word in words if f"`{word}`" not in page and f'"{word}":' not in page} == set()


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_setting_has_its_variable_default_and_bounds(name: str) -> None:
    line, kind = row("docs/settings.md", name), Settings.param[name]
    items = kind.default if isinstance(kind.default, list) else [kind.default]
    words = [str(item).lower() if isinstance(item, bool) else str(item) for item in items]
    shown = ", ".join(f"`{word}`" for word in words if word)
    assert f"| `{name}` | `{PREFIX}{name.upper()}` | {shown or 'none'} |" in line
    if isinstance(kind, param.Number):
        assert f"| {kind.bounds[0]:,} to {kind.bounds[1]:,}" in line
    if isinstance(kind, param.Selector):
        assert all(f"`{choice}`" in line for choice in kind.objects)
    assert (name in (*LIVE_TIMEOUTS, *EDITABLE, "model_options")) == (" Live" in line)
    assert (name in RELOAD) == ("from the model's next load on" in line)


def test_no_setting_is_made_up() -> None:
    named = set(re.findall(rf"`{PREFIX}(\w+)`", text("docs/settings.md")))
    assert named == {name.upper() for name in PARAMETERS} | {"DATA_DIR", "BLAS"}


def errors(root: type[MlxPanelError] = MlxPanelError) -> list[type[MlxPanelError]]:
    """The tree, with what other modules of ours add to it."""
    children = [child for child in root.__subclasses__() if child.__module__.startswith("mlx_panel.")]
    return [root, *(error for child in children for error in errors(child))]


@pytest.mark.parametrize("error", errors(), ids=lambda error: error.code)
def test_every_error_has_its_row(error: type[MlxPanelError]) -> None:
    assert f"| `{error.code}` | `{error.__name__}` | {status_of(error())} |" in row(
        "docs/errors.md", error.code
    )
    assert chat.Refused in errors()


@pytest.mark.parametrize("column", AuditRecord.__struct_fields__)
def test_every_audit_column_has_its_row(column: str) -> None:
    assert row("docs/audit.md", column)


def commands(parser: argparse.ArgumentParser, path: str = "mlx-panel") -> Iterator[tuple[str, set[str]]]:
    """Every command that does something, with its flags."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    flags = {flag for action in parser._actions for flag in action.option_strings} - {"-h", "--help"}
    if not inner:
        yield path, flags
    for name, child in inner[0].choices.items() if inner else ():
        yield from commands(child, f"{path} {name}")


def test_every_command_has_its_row_with_its_flags() -> None:
    found = dict(commands(cli._parser()))
    # Those of the engine's settings have their rows in docs/settings.md.
    engine = {f"--{name.replace('_', '-')}" for name in EDITABLE}
    found["mlx-panel serve"] = {
        flag for flag, spec in MlxServe.args if (flag, spec) not in Serve.args
    } - engine
    for command, flags in {**found, "mlx-panel --version": set()}.items():
        assert {flag for flag in flags if flag not in row("README.md", command)} == set(), command


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
    links = re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\s\"]+)", content)
    for link in (link for link in links if "://" not in link):
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_nothing_points_to_the_place_it_was_made_in() -> None:
    files = [*PAGES, *(file for pattern in BUILD for file in ROOT.glob(pattern))]
    assert [file.name for file in files if ELSEWHERE.search(file.read_text(encoding="utf-8"))] == []
