"""Canaries through every route, error paths included: none may come up in a file, a log or an output."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_panel import record
from mlx_panel.audit.database import CONFIG
from mlx_panel.audit.schema import migrate
from mlx_panel.cli import main
from mlx_panel.errors import BY_CODE
from mlx_panel.inquiry import Opened, Place, Proof
from mlx_panel.prove import canary, report, sockets
from mlx_panel.prove.columns import text_columns, texts
from mlx_panel.prove.ears import Ears
from mlx_panel.prove.needles import Needles
from mlx_panel.prove.orders import SearchOrder, Spot
from mlx_panel.prove.places import spots
from mlx_panel.prove.plan import READING
from mlx_panel.prove.search import Search
from mlx_panel.record import AuditDetail, AuditRecord, Neighbour, PoolEvent, Span

from .models import tiny_model
from .server import Running, running, scripted
from .test_doors import ENDPOINTS, GENERATE, MALFORMED, path

CANARY = "zq7canary4Kx"


def send_everywhere(server: Running) -> None:
    """The canary wherever a request can hold text."""
    for endpoint in ENDPOINTS:
        if endpoint.route in (
            "/api/live",
            "/api/privacy/proof",
        ):  # without an end; would send canaries of its own
            continue
        for verb in ("GET", "POST", "PUT", "DELETE"):
            server.client.request(verb, path(endpoint), json={CANARY: CANARY})
            server.client.request(
                verb,
                path(endpoint),
                content=f"{{{CANARY}",
                headers={"Content-Type": "application/json", "User-Agent": CANARY},
            )
        server.client.get(f"{path(endpoint)}?{CANARY}={CANARY}")
    server.client.get(f"/v1/models/{CANARY}")
    server.client.post(f"/v1/admin/models/load/{CANARY}")
    for model in ("tiny", "plain", "failing", "dying", "broken", "small", CANARY):
        for route in GENERATE[: 1 if model == "dying" else 2]:
            for stream in (False, True):
                server.client.post(route, json=full(route, model, stream=stream))
    for raw, _, _ in MALFORMED.values():
        server.client.post(
            GENERATE[0], content=raw + CANARY.encode(), headers={"Content-Type": "application/json"}
        )
    for model in ("tiny", "plain"):
        for route in GENERATE:
            for more in held(route):
                for stream in (False, True):
                    server.client.post(route, json=full(route, model, stream=stream) | more)
    for wrong in (
        {"temperature": CANARY},
        {"stop": [CANARY] * 20},
        {"n": CANARY},
        {CANARY: 1},
        {"max_tokens": 10**9},
        {"stream": CANARY},
    ):
        server.client.post(GENERATE[0], json=full(GENERATE[0], "tiny") | wrong)


def full(route: str, model: str, **more: Any) -> dict[str, Any]:
    turns = [
        {"role": "system", "content": CANARY},
        {"role": "user", "content": f"Say {CANARY}!", "name": CANARY},
    ]
    asked = {"messages": turns} if "chat" in route else {"prompt": f"{CANARY} " * 5}
    return {
        "model": model,
        **asked,
        "max_tokens": 4,
        "user": CANARY,
        "metadata": {CANARY: CANARY},
        "stop": [CANARY],
        **more,
    }


def held(route: str) -> list[dict[str, Any]]:
    """The canary in whatever says what an answer looks like, right and wrong."""
    schema = {"type": "object", "properties": {CANARY: {"enum": [CANARY]}}, "required": [CANARY]}
    tool = {"name": CANARY, "description": CANARY, "parameters": schema}
    shapes: list[dict[str, Any]] = [
        {"regex": f"{CANARY}+"},
        {"regex": f"({CANARY}"},
        {"choice": [CANARY]},
        {"grammar": f'start: "{CANARY}"'},
        {"grammar": f"start: {CANARY}"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": CANARY, "schema": schema}}},
        {"structured_outputs": {"json": f'{{"pattern": "({CANARY}"}}'}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {CANARY: {"not": 1}}},
            }
        },
        {"response_format": {"type": CANARY}},
        {"logprobs": 2, "echo": True, "prompt": [CANARY, CANARY]},
    ]
    if "chat" not in route:
        return shapes
    call = {"id": CANARY, "type": "function", "function": {"name": CANARY, "arguments": f'{{"{CANARY}": 1'}}
    turns = [
        {"role": "user", "content": CANARY},
        {"role": "assistant", "content": None, "reasoning_content": CANARY, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": CANARY, "content": CANARY},
    ]
    tools = [{"type": "function", "function": tool | {"strict": strict}} for strict in (False, True)]
    return [
        *shapes,
        {"logprobs": True, "top_logprobs": 3, "messages": turns},
        {"tools": tools[:1], "messages": turns},
        {"tools": tools[1:], "tool_choice": "required", "messages": turns},
        {"tools": tools[1:], "tool_choice": {"type": "function", "function": {"name": CANARY}}},
        {"tools": tools},
        {"tools": [{"type": CANARY, CANARY: CANARY}]},
        {"tools": tools[:1], "tool_choice": CANARY},
        {"chat_template_kwargs": {CANARY: CANARY}},
        {"reasoning_effort": CANARY},
        {"reasoning": {CANARY: CANARY}},
    ]


def leaks(folder: Path, text: str = CANARY) -> list[str]:
    """The files that hold a text in any form."""
    spot = Spot("everything", (str(folder),))
    order = SearchOrder((canary.Canary("plain", text),), canary.control(), 0.0, (spot,))
    return list(Search(order).spot(spot).where)


# --- what a row can hold -------------------------------------------------------------------------------------------


class Careless(AuditRecord, frozen=True):
    """A row that somebody gave free text."""

    note: str = ""
    sizes: tuple[int, ...] = ()
    more: tuple[Careless2, ...] = ()


class Careless2(msgspec.Struct, frozen=True):
    reason: str | None = None
    count: int = 0


@pytest.mark.parametrize("struct", [AuditRecord, AuditDetail, Span, Neighbour, PoolEvent])
def test_no_field_of_a_row_can_hold_text(struct: type[msgspec.Struct]) -> None:
    assert record.free_text_fields(struct) == []


def test_a_field_for_text_is_noticed() -> None:
    assert record.free_text_fields(Careless) == ["note", "sizes", "more.reason"]


@pytest.mark.parametrize("kind", [kind for kind in record.CONTENT_FREE_TEXT if kind is not record.Hashes])
def test_text_of_a_row_is_no_sentence(kind: Any) -> None:
    """One line for all; no space, and so no sentence, in all but the names that the owner of the server gave."""
    words = ["Tell me a secret", "Erzähl mir was!"] if kind is not record.KnownName else []
    for text in ["", "a\n", "a\nb", "a\u2028b", "a\x00", "x" * 513, *words]:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(text, kind)


def test_what_the_server_says_fits() -> None:
    for endpoint in ENDPOINTS:
        msgspec.convert(endpoint.route, record.RouteName)
        msgspec.convert(endpoint.dialect, record.Word)
    for code in BY_CODE:
        msgspec.convert(code, record.Word)
    msgspec.convert("org/Model 2 (copy)", record.KnownName)


def free_columns(connection: duckdb.DuckDBPyConnection) -> set[str]:
    """The text columns of a file that no content-free field answers for: those of its table's struct, or of the same
    name as one of the audit row."""
    structs = {"audit": AuditRecord, "detail": AuditDetail, "pool_event": PoolEvent}
    return {
        f"{table}.{column}"
        for table, column, _ in text_columns(connection)
        if column not in structs.get(table, AuditRecord).__struct_fields__
    }


def test_no_column_of_the_file_can_hold_text(tmp_path: Path) -> None:
    """Whoever adds a text column gives it a content-free field, whose type the writer checks."""
    with duckdb.connect(str(tmp_path / "audit.duckdb"), config=CONFIG) as connection:
        migrate(connection)
        assert free_columns(connection) == set()
        assert {("audit", "model_used"), ("detail", "neighbours"), ("detail", "blocks")} <= {
            (table, column) for table, column, _ in text_columns(connection)
        }
        connection.execute("ALTER TABLE audit ADD COLUMN note VARCHAR")
        connection.execute("CREATE TABLE extra (words STRUCT (a VARCHAR[])[], raw BLOB, count BIGINT)")
        assert free_columns(connection) == {"audit.note", "extra.words", "extra.raw"}


# --- the search ----------------------------------------------------------------------------------------------------

SOUGHT = (*canary.make(), canary.control())
NEEDLES = Needles(SOUGHT)


@given(
    number=st.integers(0, len(SOUGHT) - 1),
    before=st.binary(max_size=300),
    after=st.binary(max_size=20),
    data=st.data(),
)
def test_a_canary_is_found_in_every_form_and_place(
    number: int, before: bytes, after: bytes, data: Any
) -> None:
    forms = canary.forms(SOUGHT[number].text)
    form = data.draw(st.sampled_from(sorted(forms)))
    assert number in {hit.canary for hit in NEEDLES.find(before + form + after)}, forms[form]
    assert {hit.canary for hit in NEEDLES.find(before + after)} == set()


@given(cut=st.integers(0, 60), number=st.integers(0, len(SOUGHT) - 2), offset=st.integers(0, 2))
def test_a_piece_of_a_canary_is_found(cut: int, number: int, offset: int) -> None:
    """Where only the beginning or the end was kept, or something in the middle of base64."""
    text = SOUGHT[number].text
    piece = text[cut % max(1, len(text) - 26) :][:26]
    for raw in (piece.encode(), canary.base64.b64encode(b"." * offset + piece.encode())):
        assert {hit.canary for hit in NEEDLES.find(raw)} == {number}


def test_a_canary_over_a_border_is_found(tmp_path: Path) -> None:
    """Files are read in pieces; so are the pieces."""
    for border in (1 << 20, 4 << 20):
        file = tmp_path / "large"
        file.write_bytes(bytes(border - 7) + CANARY.encode() + bytes(99))
        assert leaks(tmp_path) == ["large"]


def test_every_place_is_searched(tmp_path: Path) -> None:
    """A canary in any of them is told with the place's name; where content is expected, its file goes."""
    data, run, cache, temporary = (tmp_path / name for name in ("data", "run", "cache", "temporary"))
    inside = ("logs", "prefix", "benchmarks", "models", "exports", "sql")
    files = [data / "audit.duckdb.wal", data / "proof.json", run / "x", cache / "y", temporary / "z"]
    files += [data / name / "deep" / "file" for name in inside]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"… {CANARY} …")
    order = SearchOrder(
        (canary.Canary("plain", CANARY),), canary.control(), 0.0, tuple(spots(data, run, cache, temporary))
    )
    found = {place.name: place for place in Search(order).run()}
    printed = "what the server prints, where it goes"
    assert {name for name, place in found.items() if place.found != 1} <= {printed}
    assert len(found) == len(files) + 1
    assert all(place.controls == place.planted for place in found.values())
    assert [file for file in files if not file.exists()] == [data / "prefix" / "deep" / "file"]
    assert not list(tmp_path.rglob("*control*"))


def test_files_from_before_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(CANARY)
    spot = Spot("here", (str(tmp_path),))
    order = SearchOrder((canary.Canary("plain", CANARY),), canary.control(), time.time() + 60, (spot,))
    [place] = Search(order).run()
    assert (place.found, place.files, place.older) == (0, 0, 1)


@pytest.mark.parametrize("where", ["argument", "environment"])
def test_command_lines_and_environments_are_searched(where: str) -> None:
    words = [CANARY] if where == "argument" else []
    told = {**os.environ, "WORD": "" if words else CANARY}
    command = [sys.executable, "-c", "print(flush=True); input()", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=told) as process:
        assert process.stdout is not None
        process.stdout.readline()
        order = SearchOrder((canary.Canary("plain", CANARY),), canary.control(), 0.0, (), (process.pid,))
        [place] = Search(order).run()
        process.communicate(b"\n")
    assert (place.found, place.files) == (1, 1)


def test_a_socket_that_others_can_reach_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as inner, socket.socket(type=socket.SOCK_DGRAM) as outer:
        outer.bind(("0.0.0.0", 0))
        reached, before = outer.getsockname(), sockets.look({os.getpid(): "server"}, ())
        address = "{}:{}".format(*inner.getsockname())
        with socket.create_connection(inner.getsockname()):
            during = sockets.look({os.getpid(): "server"}, ())
    assert Opened("server", address) in before
    assert Opened("server", "127.0.0.1", "127.0.0.1", "own") in during
    reach = Opened("server", "UDP {}:{}".format(*reached), "", "outside", "other machines can reach it")
    assert {one for one in before if one.verdict == "outside"} == {reach}


def test_names_of_files_are_searched_and_not_told(tmp_path: Path) -> None:
    (tmp_path / f"{CANARY}.txt").touch()
    assert leaks(tmp_path) == ["a file whose name holds one"]


def test_tokens_are_found() -> None:
    needles = Needles(SOUGHT[:1], lambda text: [ord(sign) + 1000 for sign in text])
    tokens = [7, *(ord(sign) + 1000 for sign in SOUGHT[0].text), 8]
    for size in (4, 8):
        raw = b"".join(token.to_bytes(size, "little") for token in tokens)
        assert len(needles.find(raw)) == 1
    assert {hit.form for hit in needles.find(json.dumps(tokens).encode())} == {"tokens, numbers"}


def test_compressed_text_is_found_through_sql(tmp_path: Path) -> None:
    """What the file's bytes may hide, its columns show; and rows from before are left out."""
    with duckdb.connect(str(tmp_path / "audit.duckdb"), config=CONFIG) as connection:
        migrate(connection)
        now = datetime.now(UTC)
        for name, when in (("old", now - timedelta(days=1)), ("new", now)):
            connection.execute(
                'INSERT INTO audit (id, request_id, "timestamp", endpoint, dialect, status, http_status, stream, duration_ms, '
                "prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, total_tokens, model_used) VALUES "
                "(1, 'r', ?, '/', 'openai', 'success', 200, false, 0, 0, 0, 0, 0, 0, ?)",
                [when.replace(tzinfo=None), f"{name} {CANARY}"],
            )
        connection.execute(
            "INSERT INTO detail VALUES (1, [], [{'request_id': 'zq7', 'prefill_ms': 0}], 0, 'raw'::BLOB)"
        )
        found = {name: values for name, values in texts(connection, now - timedelta(minutes=1)) if values}
    assert found["audit.model_used"] == [f"new {CANARY}".encode()]
    assert b"zq7" in found["detail.neighbours"][0]
    assert found["detail.blocks"] == [b"raw"]


def test_ears_hear_what_only_debug_would_show(capsys: pytest.CaptureFixture[str]) -> None:
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    logger = logging.getLogger("mlx_panel.somewhere")
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with Ears() as ears:
            logger.debug("hidden %s", {"word": CANARY})
            logger.info("told")
            print("printed", file=sys.stderr)
        logger.debug("later")
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert {CANARY.encode() in ears.heard(), b"told" in ears.heard(), b"printed" in ears.heard()} == {True}
    assert b"later" not in ears.heard()
    assert shown.getvalue() == "told\n"
    assert capsys.readouterr().err == "printed\n"


def test_a_new_route_is_thought_of() -> None:
    """A POST route without a name in its path is asked only what it refuses, or it is known to act at once."""
    posts = {one.route for one in ENDPOINTS if "POST" in one.verbs and "{" not in one.route}
    assert posts - set(READING) == {"/api/privacy/proof", "/api/settings/huggingface/test", "(no route)"}
    assert set(READING) <= posts


# --- the report ----------------------------------------------------------------------------------------------------


def test_what_a_proof_comes_to() -> None:
    clean = Proof("running", datetime.now(UTC), places=(Place("logs", 1, 10, planted=3, controls=3),))
    kept = Place("prefix cache on disk", found=2, expected=True)
    outside = Opened("server", "10.0.0.1", "93.184.216.34:443", "outside")

    def state(**changes: Any) -> str:
        return report.verdict(msgspec.structs.replace(clean, **changes))["state"]

    assert state() == "clean"
    assert state(places=(*clean.places, kept)) == "clean"
    assert state(places=(Place("logs", found=1, where=("a.log",)),)) == "found"
    assert state(sockets=(outside,)) == "found"
    assert state(sockets=(msgspec.structs.replace(outside, note="the hub was asked before"),)) == "clean"
    assert state(places=(Place("logs", planted=3, controls=2),)) == "failed"


# --- a server ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that logs all it ever logs, keeps prefixes on the disk, and has its own folder for temporary files."""
    folder = tmp_path_factory.mktemp("privacy")
    (folder / "temporary").mkdir()
    tiny_model(folder / "data" / "models" / "tiny")
    scripted(folder / "data", "careless", text="I shall not tell.", careless=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "temporary"))
        with running(folder / "data", log_level="debug", hub_offline=True) as one:
            yield one


def proved(server: Running) -> Proof:
    """A proof, from its start to its end."""
    started = server.client.post("/api/privacy/proof")
    assert started.status_code == 202
    assert server.client.post("/api/privacy/proof").status_code == 409
    while (proof := current(server)).state == "running":
        time.sleep(0.1)
    return proof


def current(server: Running) -> Proof:
    return msgspec.convert(server.client.get("/api/privacy/proof").json()["proof"], Proof)


def test_nothing_of_a_request_is_kept(server: Running) -> None:
    send_everywhere(server)
    answer = server.chat("tiny", "Hello", max_tokens=8, temperature=0).json()["choices"][0]["message"][
        "content"
    ]
    rows = server.client.get("/v1/admin/audit-logs", params={"scope": "all", "limit": 1000}).text
    assert leaks(server.folder) == []  # the database, its log and the server's output, while it runs
    assert CANARY not in rows
    assert len(answer) < 4 or not [
        file for file in server.folder.rglob("*.duckdb*") if answer.encode() in file.read_bytes()
    ]


def held_by_owner(server: Running) -> list[Any]:
    """What belongs to the owner of the server, and no proof may change."""
    settings = ("timeouts", "engine", "pool", "audit")
    lists = ("/api/models/tasks", "/api/models/downloads", "/v1/admin/benchmarks", "/v1/models")
    routes = ["/api/profiles", "/api/aliases", *lists, *(f"/api/settings/{name}" for name in settings)]
    names = ("presets.toml", "queries.toml", "settings.live.json", "hub-token", "secret", "replay.key")
    files = {name: file.read_bytes() for name in names if (file := server.folder / name).exists()}
    folders = [sorted((server.folder / name).glob("**/*")) for name in ("models", "benchmarks")]
    return [*(server.client.get(route).json() for route in routes), files, folders]


def test_a_proof_finds_nothing_and_leaves_nothing(server: Running) -> None:
    server.client.post("/v1/admin/models/load/tiny").raise_for_status()
    before = held_by_owner(server)
    proof = proved(server)
    assert (proof.state, proof.error, proof.model) == ("clean", "", "tiny"), report.markdown(proof)
    assert held_by_owner(server) == before
    assert proof.requests == sum(sent.requests for sent in proof.sent) > 400
    assert {sent.route for sent in proof.sent} >= {endpoint.route for endpoint in ENDPOINTS}
    asked = {sent.group: sent.statuses for sent in proof.sent if sent.route in GENERATE}
    assert all("200" in asked[group] for group in ("chat", "completions", "tools", "structured output")), (
        asked
    )
    assert {one.verdict for one in proof.sockets} <= {"own", "this machine"}
    places = {place.name: place for place in proof.places}
    assert [place.name for place in proof.places if place.controls < place.planted] == []
    assert places["prefix cache on disk"].expected
    assert places["prefix cache on disk"].encodings == ("tokens, hexadecimal",)
    assert "temporary files" in places
    rows = server.client.get("/v1/admin/audit-logs", params={"model": "mlx-panel-proof"}).json()
    assert rows["total"] > 20  # a person who looks at the log sees what those were


def test_a_proof_is_kept_without_its_canaries(server: Running) -> None:
    file = server.folder / "proof.json"
    assert msgspec.json.decode(file.read_bytes(), type=Proof) == current(server)
    assert file.stat().st_mode & 0o777 == 0o600
    text = report.markdown(current(server))
    assert text.startswith(
        "# Privacy proof\n\n**Nothing was kept: 6 random texts went through the server in "
    )
    assert "| prefix cache on disk |" in text


def test_a_server_that_keeps_a_prompt_is_found_out(
    server: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The model writes what it is asked into the workers' log; the command says so and fails."""
    server.client.post("/v1/admin/models/unload/tiny").raise_for_status()
    server.client.post("/v1/admin/models/load/careless").raise_for_status()
    file = tmp_path / "report.md"
    assert main(["audit", "prove", "--url", server.url, "--json", "-o", str(file)]) == 1
    proof = msgspec.json.decode(capsys.readouterr().out, type=Proof)
    assert (proof.state, proof.model) == ("found", "careless")
    assert [place.name for place in proof.places if place.found and not place.expected] == ["logs"]
    assert next(place.where for place in proof.places if place.name == "logs") == ("worker.log",)
    assert "Something was kept or could leave: logs (worker.log)." in file.read_text(encoding="utf-8")


def test_no_error_quotes_a_prompt(server: Running) -> None:
    """What an error may name is the caller's own model, field names and route, never text to generate from."""
    for model in ("failing", "broken", "small", "nothing"):
        for route in GENERATE:
            assert CANARY not in server.client.post(
                route, json=full(route, model) | {"max_tokens": 10_000}
            ).text.replace(json.dumps(model), "")


def test_the_files_are_the_owners_alone(server: Running) -> None:
    server.chat()
    modes = {
        file.name: file.stat().st_mode & 0o777
        for file in server.folder.rglob("*")
        if file.suffix in (".duckdb", ".log", ".wal") or file.name == "proof.json"
    }
    assert server.folder.stat().st_mode & 0o777 == 0o700
    assert {name: mode for name, mode in modes.items() if mode != 0o600} == {}
