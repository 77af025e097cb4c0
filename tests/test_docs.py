"""The documents say what the program does: whatever it offers by name appears where a person would look for it."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import param
import pytest
from panel.command.serve import Serve

from mlx_panel import chat, cli
from mlx_panel.analytics import FILTER_NAMES
from mlx_panel.audit_settings import AUDIT_EDITABLE
from mlx_panel.engine_settings import EDITABLE, RELOAD
from mlx_panel.errors import MlxPanelError, status_of
from mlx_panel.http import openai_chat, openai_completions
from mlx_panel.http.decode import Vocabulary
from mlx_panel.http.fallback import Fallback
from mlx_panel.http.openai_fields import NO_EFFECT
from mlx_panel.http.openai_messages import MESSAGE_FIELDS, MESSAGE_UNSUPPORTED, OTHER_PARTS, ROLES
from mlx_panel.http.routes import MODULES
from mlx_panel.job import Job, Level, Order, Stored
from mlx_panel.messages import AuditRecord
from mlx_panel.pool_settings import POOL, POOL_EDITABLE
from mlx_panel.serve import MlxServe
from mlx_panel.settings import HUB_EDITABLE, LIVE_TIMEOUTS, PREFIX, Settings
from mlx_panel.snapshot import ModelState, Snapshot
from mlx_panel.tuning import CacheFigures, CacheRecord, CacheReport, Option

from .test_standard import DATA, needs_data

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BUILD = ("Makefile", "pyproject.toml", "constraints.txt", ".ci/run", ".github/workflows/*")
ELSEWHERE = re.compile(r"(?<![\w.])/work/|pypi\.org|pythonhosted\.org|index-url|index_url|artifactory", re.I)
ENDPOINTS = [handler for module in MODULES for _, handler in module.routes if handler is not Fallback]
PARAMETERS = [name for name in Settings.param if name != "name"]
CHAT = (openai_chat.ChatBody, openai_chat.VOCABULARY)
TEXT = (openai_completions.CompletionBody, openai_completions.VOCABULARY)
IN_PART = {"best_of"}  # taken where it says nothing new


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


def verdict(name: str, body: type[msgspec.Struct], vocabulary: Vocabulary) -> str:
    """What becomes of a field, in the words of the page."""
    if name in vocabulary.unsupported or (name in IN_PART and name in body.__struct_fields__):
        return "refused"
    if name in body.__struct_fields__:
        return "honoured"
    return "no effect" if name in vocabulary.without_effect else "–"


def fields() -> dict[str, tuple[str, str]]:
    """Every field that either route knows, and what becomes of it there."""
    names = {
        name
        for body, vocabulary in (CHAT, TEXT)
        for name in (*body.__struct_fields__, *vocabulary.unsupported, *vocabulary.without_effect)
    }
    return {name: (verdict(name, *CHAT), verdict(name, *TEXT)) for name in names}


def rows(section: str) -> dict[str, tuple[str, str]]:
    """The table of a section: the first cell's name, and the two cells after it."""
    part = next(
        part for part in re.split(r"^## ", text("docs/api.md"), flags=re.M) if part.startswith(f"{section}\n")
    )
    found = re.findall(r"^\| `(\w+)`(?: \+)? \| ([\w –]+) \| ([\w –]+) \|", part, flags=re.M)
    assert len(found) == len({name for name, _, _ in found})
    return {name: (chat, completions) for name, chat, completions in found}


def test_every_field_has_its_row() -> None:
    assert rows("Fields") == fields()


@needs_data
@pytest.mark.parametrize("name", ["CreateChatCompletionRequest", "CreateCompletionRequest"])
def test_every_field_of_openai_is_known(name: str) -> None:
    """None of them may count as unknown, and the page marks those it does not have."""
    schemas = json.loads((DATA / "openai-openapi.json").read_text(encoding="utf-8"))["components"]["schemas"]

    def properties(schema: dict[str, Any]) -> set[str]:
        if "$ref" in schema:
            return properties(schemas[schema["$ref"].rpartition("/")[2]])
        return set(schema.get("properties", ())).union(*map(properties, schema.get("allOf", ())))

    column = ("CreateChatCompletionRequest", "CreateCompletionRequest").index(name)
    known = {field for field, verdicts in rows("Fields").items() if verdicts[column] != "–"}
    assert properties(schemas[name]) - known == set()
    added = set(re.findall(r"^\| `(\w+)` \+ \|", text("docs/api.md"), flags=re.M))
    assert added & properties(schemas[name]) == set()


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
    assert (
        name in (*LIVE_TIMEOUTS, *EDITABLE, *POOL_EDITABLE, *AUDIT_EDITABLE, *HUB_EDITABLE, "model_options")
    ) == (" Live" in line)
    assert (name in RELOAD) == ("from the model's next load on" in line)


def test_no_setting_is_made_up() -> None:
    named = set(re.findall(rf"`{PREFIX}(\w+)`", text("docs/settings.md")))
    assert named == {name.upper() for name in PARAMETERS} | {"DATA_DIR", "BLAS", "FAULTS"}


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
    parser.format_help()  # a stray % in a text would make it fail
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    flags = {flag for action in parser._actions for flag in action.option_strings} - {"-h", "--help"}
    if not inner:
        yield path, flags
    for name, child in inner[0].choices.items() if inner else ():
        yield from commands(child, f"{path} {name}")


def test_every_command_has_its_row_with_its_flags() -> None:
    found = dict(commands(cli._parser()))
    # Those of the engine's settings have their rows in docs/settings.md.
    engine = {f"--{name.replace('_', '-')}" for name in (*EDITABLE, *POOL)}
    found["mlx-panel serve"] = {
        flag for flag, spec in MlxServe.args if (flag, spec) not in Serve.args
    } - engine
    # The filters of the log have theirs beside the first command that takes them.
    filters = {f"--{name}" for name in FILTER_NAMES}
    for command in found.keys() - {"mlx-panel audit list"}:
        found[command] -= filters if command.startswith("mlx-panel audit ") else set()
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
