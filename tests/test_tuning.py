"""The engine's settings on their way to a worker, and what it tells of its caches on its way back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from mlx_panel.cache_log import CacheLog, sentence
from mlx_panel.engine_settings import EDITABLE, ENGINE, FIELDS, RELOAD, waiting
from mlx_panel.errors import SettingsError
from mlx_panel.http import openai_chat, openai_completions
from mlx_panel.messages import Sampling
from mlx_panel.settings import Settings
from mlx_panel.tuning import DETERMINISTIC_CHUNK, CacheReport, EngineOptions

from .models import tiny_model
from .server import Running, running, scripted
from .test_doors import GENERATE, body, check_problem, wait_for
from .test_settings import load

# Another value for every setting of the engine than its default.
OTHER: dict[str, Any] = {
    "max_batch": 3, "prefill_step": 16, "max_decode_stall_ms": 50.0, "decode_share": 0.5, "admission_order": "arrival",
    "prefix_cache_mb": 7, "prefix_cache_disk": False, "prefix_cache_disk_mb": 9, "speculation": "draft", "draft_model": "small",
    "kv_bits": 8, "kv_group_size": 32, "wired_limit_mb": 11,
}  # fmt: skip
RECALLING = {"text": "one two three four", "cached": 3}
MIB = 1 << 20


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose live settings tests change and take back."""
    with running(tmp_path_factory.mktemp("tuned"), sse_keepalive_seconds=3) as server:
        scripted(server.folder, "recalling", **RECALLING)
        yield server


@pytest.fixture
def live(tuned: Running) -> Iterator[Running]:
    yield tuned
    for where in ("", "/plain", "/recalling", "/slow"):
        tuned.client.delete(f"/api/settings/engine{where}").raise_for_status()


def options(server: Running, model: str) -> EngineOptions:
    """What the worker of a model was started with."""
    server.chat(model, max_tokens=1)
    command = next(line for worker in server.workers() if f"--name={model}" in (line := worker.cmdline()))
    text = next(word for word in command if word.startswith("--options=")).removeprefix("--options=")
    return msgspec.json.decode(text, type=EngineOptions)


def change(server: Running, values: dict[str, Any], model: str = "") -> dict[str, Any]:
    where = f"/api/settings/engine/{model}" if model else "/api/settings/engine"
    return server.client.put(where, json=values).raise_for_status().json()


def state(server: Running, model: str) -> dict[str, Any]:
    models = server.client.get("/v1/admin/models/status").json()["models"]
    return next(one for one in models if one["id"] == model)


def figures(server: Running, model: str) -> dict[str, Any]:
    return server.client.get("/v1/admin/cache").json()["models"].get(model, {})


# --- to the worker ----------------------------------------------------------------------------------------------------


def test_every_setting_reaches_the_worker(serve: Any) -> None:
    assert set(OTHER) == set(ENGINE)
    server: Running = serve(**OTHER)
    given = options(server, "plain")
    assert (given.prefix_disk, given.draft_model) == ("", str(server.folder / "models" / "small"))
    rest = {
        FIELDS.get(name, name): value
        for name, value in OTHER.items()
        if name not in ("prefix_cache_disk", "draft_model")
    }
    assert {name: getattr(given, name) for name in rest} == rest
    default = EngineOptions()
    assert all(getattr(given, name) != getattr(default, name) for name in rest)


def test_settings_and_engine_have_the_same_defaults(tmp_path: Path) -> None:
    settings = Settings(tmp_path, prefix_cache_disk=False)
    assert settings.options_of("any") == EngineOptions()


def test_every_setting_is_a_flag(tmp_path: Path) -> None:
    flags = {**OTHER, "strip_rules": "clock,date"}
    assert set(flags) == set(EDITABLE)
    server_flags = (f"--{name.replace('_', '-')}={str(value).lower()}" for name, value in flags.items())
    with running(tmp_path, command=("-m", "tests.run_server", "serve", *server_flags), port=0) as server:
        assert options(server, "plain").kv_group_size == OTHER["kv_group_size"]
        told = server.client.get("/api/settings/engine").json()["options"]
    assert {one["name"]: one["value"] for one in told} == {**OTHER, "strip_rules": ["clock", "date"]}
    assert {one["source"] for one in told} == {"command line"}


def test_a_model_has_values_of_its_own(serve: Any, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "settings.toml").write_text(
        'kv_bits = 4\n[model_options."plain"]\nkv_bits = 8\nmax_batch = 5\n'
    )
    server: Running = serve(model_options=json.dumps({"plain": {"max_batch": 6}}), kv_group_size=32)
    own, other = options(server, "plain"), options(server, "small")
    assert (own.kv_bits, own.max_batch, own.kv_group_size) == (8, 6, 32)
    assert (other.kv_bits, other.max_batch, other.kv_group_size) == (4, 32, 32)
    told = {one["name"]: one for one in server.client.get("/api/settings/engine/plain").json()["options"]}
    assert [(told[name]["own"], told[name]["source"]) for name in ("kv_bits", "max_batch", "kv_group_size")] == [
        (True, "file"), (True, "environment"), (False, "environment"),
    ]  # fmt: skip


def test_a_live_change_reaches_a_running_model_and_outlives_a_restart(serve: Any) -> None:
    server: Running = serve()
    scripted(server.folder, "recalling", **RECALLING)
    options(server, "recalling")
    pid = state(server, "recalling")["pid"]
    change(server, {"prefix_cache_mb": 5})
    wait_for(lambda: figures(server, "recalling")["budget"] == 5 * MIB)
    change(server, {"prefix_cache_mb": 6}, "recalling")
    wait_for(lambda: figures(server, "recalling")["budget"] == 6 * MIB)
    assert state(server, "recalling")["pid"] == pid
    server.stop()
    again: Running = serve()
    assert (options(again, "recalling").prefix_cache_mb, options(again, "plain").prefix_cache_mb) == (6, 5)
    change(again, {"prefix_cache_mb": None}, "recalling")
    wait_for(lambda: figures(again, "recalling")["budget"] == 5 * MIB)
    again.client.delete("/api/settings/engine").raise_for_status()
    wait_for(lambda: figures(again, "recalling")["budget"] == 1024 * MIB)
    assert json.loads((again.folder / "settings.live.json").read_text()) == {}


def test_a_change_while_a_model_loads_reaches_it(live: Running) -> None:
    scripted(live.folder, "loading", text="x", load_seconds=3)
    with ThreadPoolExecutor(1) as other:
        load_it = other.submit(live.client.post, "/v1/admin/models/load/loading")
        wait_for(lambda: any("--name=loading" in worker.cmdline() for worker in live.workers()))
        change(live, {"prefix_cache_mb": 4})
        assert state(live, "loading")["state"] == "loading"
        assert load_it.result().status_code == 200
    assert options(live, "loading").prefix_cache_mb == 1024  # it was started before
    wait_for(lambda: figures(live, "loading").get("budget") == 4 * MIB)


def test_more_requests_run_at_once_when_a_live_change_says_so(live: Running) -> None:
    change(live, {"max_batch": 1}, "slow")
    asked = [
        live.client.stream("POST", GENERATE[0], json=body("chat", "slow", stream=True)) for _ in range(3)
    ]
    for one in asked:
        one.__enter__()
    wait_for(lambda: (state(live, "slow")["running"], state(live, "slow")["queued"]) == (1, 2))
    change(live, {"max_batch": 2}, "slow")
    wait_for(lambda: (state(live, "slow")["running"], state(live, "slow")["queued"]) == (2, 1))
    for one in asked:
        one.__exit__(None, None, None)


def test_what_waits_for_the_next_load_is_named_and_then_holds(live: Running) -> None:
    options(live, "recalling")
    wait_for(lambda: figures(live, "recalling").get("kv_dtype") == "none")
    told = change(live, {"kv_bits": 8, "max_batch": 9}, "recalling")
    assert told["pending"] == {"recalling": ["kv_bits"]}
    assert told["models"] == {"recalling": {"kv_bits": 8, "max_batch": 9}}
    assert state(live, "recalling")["pending"] == ["kv_bits"]
    change(live, {"prefix_cache_mb": 3}, "recalling")  # whose effect says that the worker has heard of both
    wait_for(lambda: figures(live, "recalling")["budget"] == 3 * MIB)
    assert figures(live, "recalling")["kv_dtype"] == "none"
    live.client.post("/v1/admin/models/unload/recalling").raise_for_status()
    options(live, "recalling")
    wait_for(lambda: figures(live, "recalling").get("kv_dtype") == "8-bit (group 64)")
    assert state(live, "recalling")["pending"] == []


@pytest.mark.parametrize("name", RELOAD)
def test_each_setting_that_needs_a_load_says_so(name: str) -> None:
    told = {one.name: one for one in Settings(Path()).options()}
    assert told[name].reload
    changed = {"draft_model": "x", "speculation": "draft"} if name == "draft_model" else {name: OTHER[name]}
    before, after = Settings(Path("/data")), Settings(Path("/data"), **changed)
    assert waiting(before.options_of("m"), after.options_of("m")) == (name,)


# --- what cannot be -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"kv_bits": 5}, "kv_bits"),
        ({"kv_bits": "8"}, "kv_bits"),
        ({"kv_group_size": True}, "kv_group_size"),
        ({"max_decode_stall_ms": 19}, "max_decode_stall_ms"),
        ({"decode_share": 0.91}, "decode_share"),
        ({"admission_order": "longest"}, "admission_order"),
        ({"prefix_cache_mb": -1}, "prefix_cache_mb"),
        ({"prefix_cache_mb": 1.5}, "prefix_cache_mb"),
        ({"prefix_cache_disk": 1}, "prefix_cache_disk"),
        ({"max_batch": 4, "wired_limit_mb": "all"}, "wired_limit_mb"),
        ({"speculation": "draft"}, "speculation"),
        ({"speculation": "draft", "draft_model": "nowhere"}, "draft_model"),
        ({"draft_model": "two\nlines"}, "draft_model"),
        ({"strip_rules": "clock"}, "strip_rules"),
        ({"strip_rules": ["clock", "weather"]}, "strip_rules"),
        ({"port": 1}, "port"),
        ({"model_options": {}}, "model_options"),
    ],
)
@pytest.mark.parametrize("model", ["", "/plain"])
def test_a_value_that_cannot_be_changes_nothing(
    live: Running, values: dict[str, Any], field: str, model: str
) -> None:
    where = f"/api/settings/engine{model}"
    before = live.client.get(where).json()
    problem = check_problem(live, live.client.put(where, json=values), 400, "invalid_parameter")
    assert problem["error"]["param"] == field
    assert live.client.get(where).json() == before


def test_a_model_nobody_knows_has_no_settings(live: Running) -> None:
    for method in ("GET", "PUT"):
        reply = live.client.request(method, "/api/settings/engine/nowhere", json={"kv_bits": 8})
        check_problem(live, reply, 404, "model_not_found")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kv_bits = 3", "kv_bits cannot be 3. It must be one of 0, 4, 8."),
        ("speculation = 'draft'", "no draft_model"),
        ("[model_options.x]\nkv_bits = 3", "'x': kv_bits must be one of"),
        ("[model_options.x]\nport = 3", "cannot hold 'port'"),
        ("[model_options]\nkv_bits = 8", "table of tables"),
        ("prefix_cache_disk = 'maybe'", "prefix_cache_disk cannot be 'maybe'; it is none of true"),
    ],
)
def test_a_file_that_cannot_be_says_why(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(tmp_path)
    assert words in str(caught.value)


def test_words_in_the_environment(tmp_path: Path) -> None:
    assert load(tmp_path, STRIP_RULES="none").strip_rules == []
    assert load(tmp_path, STRIP_RULES="date, clock").strip_rules == ["date", "clock"]
    settings = load(
        tmp_path,
        PREFIX_CACHE_DISK="off",
        KV_BITS="8",
        DECODE_SHARE="0",
        MODEL_OPTIONS='{"m": {"kv_bits": 0}}',
    )
    assert (settings.prefix_cache_disk, settings.kv_bits, settings.decode_share) == (False, 8, 0.0)
    assert (settings.options_of("m").kv_bits, settings.options_of("n").kv_bits) == (0, 8)
    with pytest.raises(SettingsError, match="model_options"):
        load(tmp_path, MODEL_OPTIONS="{")


def test_a_draft_model_that_is_gone_is_a_load_that_fails(serve: Any) -> None:
    server: Running = serve(speculation="draft", draft_model="nowhere")
    problem = check_problem(server, server.chat(), 503, "model_load_failed")
    assert "draft_model" in problem["detail"]
    change(server, {"max_batch": 5})  # which a model that misses its draft does not stop
    change(server, {"speculation": "off"})
    assert server.chat().status_code == 200


def test_timeouts_and_engine_are_reset_apart(live: Running) -> None:
    live.client.put("/api/settings/timeouts", json={"timeout_chat_seconds": 100}).raise_for_status()
    change(live, {"max_batch": 5})
    live.client.delete("/api/settings/timeouts").raise_for_status()
    told = live.client.get("/api/settings/engine").json()["options"]
    assert {one["name"]: one["source"] for one in told}["max_batch"] == "live"
    assert {one["source"] for one in live.client.get("/api/settings/timeouts").json()["timeouts"]} == {
        "default"
    }


# --- prompts on disk ----------------------------------------------------------------------------------------------------


def test_the_folder_of_prompts_is_private_and_goes_when_it_is_switched_off(serve: Any) -> None:
    server: Running = serve()
    folder = Path(options(server, "plain").prefix_disk)
    assert folder.parent == server.folder / "prefix"
    assert {one.stat().st_mode & 0o777 for one in (folder, folder.parent)} == {0o700}
    (folder / "block").write_bytes(b"content")
    assert change(server, {"prefix_cache_disk": False})["pending"] == {"plain": ["prefix_cache_disk"]}
    server.client.post("/v1/admin/models/unload/plain").raise_for_status()
    assert options(server, "plain").prefix_disk == ""
    assert not folder.exists()


def test_a_cache_on_disk_is_emptied_without_its_model(live: Running) -> None:
    folder = Path(options(live, "plain").prefix_disk)
    live.client.post("/v1/admin/models/unload/plain").raise_for_status()
    (folder / "block").write_bytes(b"content")
    told = live.client.delete("/v1/admin/cache/plain")
    assert (told.status_code, told.json()) == (200, {"status": "emptied", "model": "plain"})
    assert not folder.exists()
    assert live.client.delete("/v1/admin/cache/plain").status_code == 200
    check_problem(live, live.client.delete("/v1/admin/cache/nowhere"), 404, "model_not_found")


def test_names_do_not_meet_on_disk(tmp_path: Path) -> None:
    names = ["a/b", "a_b", "a b", "x" * 300, "x" * 301, "é", "../up"]
    folders = [Settings(tmp_path).prefix_folder(tmp_path, name) for name in names]
    assert len(set(folders)) == len(names)
    assert all(folder.parent == tmp_path / "prefix" and len(folder.name) < 100 for folder in folders)


# --- reports back -------------------------------------------------------------------------------------------------------


def report_of(server: Running, reply: httpx.Response) -> dict[str, Any]:
    return (
        server.client.get(f"/v1/admin/cache/requests/{reply.headers['x-request-id']}")
        .raise_for_status()
        .json()
    )


@pytest.mark.parametrize("route", GENERATE)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_cache_did_is_told_at_every_door(live: Running, route: str, stream: bool) -> None:
    live.client.delete("/v1/admin/cache/recalling").raise_for_status()
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one two three four"}]
    asked = {"messages": turns} if "chat" in route else {"prompt": "Be brief. one two three four"}
    asked |= {"model": "recalling", "stream": stream} | (
        {"stream_options": {"include_usage": True}} if stream else {}
    )
    first, second = (live.client.post(route, json=asked).raise_for_status() for _ in range(2))
    assert report_of(live, first)["report"]["outcome"] == "first"
    assert (first.headers["x-cached-tokens"], second.headers["x-cached-tokens"]) == ("0", "3")
    last = json.loads(second.text.split("\n\n")[-3].removeprefix("data: ")) if stream else second.json()
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == 3
    assert last["usage"]["prompt_tokens"] == 6
    told = report_of(live, second)
    where = {"message": 1, "role": "user"} if "chat" in route else {"message": None, "role": None}
    seen = {
        "prompt_tokens": 6,
        "cached_tokens": 3,
        "tier": "memory",
        "outcome": "changed",
        "diverged_at": 3,
        **where,
    }
    assert told["report"] | seen == told["report"]
    assert told["model"] == "recalling"
    assert told["text"].startswith("3 of 6 prompt tokens came from memory; from token 3 on")
    row = live.row(second.headers["x-request-id"])
    assert (row["cached_tokens"], row["cache_outcome"], row["cache_diverged_at"]) == (3, "changed", 3)
    assert row["cache_role"] == where["role"]
    assert live.client.get("/v1/admin/cache").json()["requests"][0] == told


def test_a_cache_that_is_off_or_not_asked(live: Running) -> None:
    live.chat("recalling")
    exact = live.chat("recalling", "one two three four five", deterministic=True)
    assert report_of(live, exact)["report"]["outcome"] == "off"
    assert exact.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    change(live, {"prefix_cache_mb": 0}, "recalling")
    assert report_of(live, live.chat("recalling", "one two three four five"))["report"]["outcome"] == "off"


BILLING = "x-anthropic-billing-header: cc_version=2.1; cch=0a1b2;"


def conversation(*lines: str) -> dict[str, Any]:
    return {
        "model": "recalling",
        "messages": [{"role": "system", "content": "\n".join(lines)}, {"role": "user", "content": "Hello"}],
    }


def test_lines_that_change_are_left_out_and_named(live: Running) -> None:
    asked = conversation(BILLING, "Current time: 12:30", "Be brief.")
    header = "X-Stripped-Lines"
    reply = live.client.post(GENERATE[0], json=asked)
    assert (reply.headers[header], reply.json()["usage"]["prompt_tokens"]) == ("claude-code-header=1", 6)
    change(live, {"strip_rules": ["clock"]}, "recalling")
    reply = live.client.post(GENERATE[0], json=asked)
    assert (reply.headers[header], reply.json()["usage"]["prompt_tokens"]) == ("clock=1", 6)
    change(live, {"strip_rules": []}, "recalling")
    reply = live.client.post(GENERATE[0], json=asked)
    assert header not in reply.headers
    assert reply.json()["usage"]["prompt_tokens"] == 9
    rules = {rule["name"]: rule for rule in live.client.get("/v1/admin/cache/rules").json()["rules"]}
    assert [rules[name]["enabled"] for name in ("claude-code-header", "clock")] == [True, False]
    assert rules["clock"]["stripped"] == 1
    assert all(rule["description"] and rule["roles"] for rule in rules.values())


def test_a_report_names_the_rule_that_would_have_helped(live: Running) -> None:
    live.client.delete("/v1/admin/cache/recalling").raise_for_status()
    asked = conversation("Be brief.", "Current time: 12:30")
    replies = [live.client.post(GENERATE[0], json=asked) for _ in range(2)]
    told = [report_of(live, reply) for reply in replies]
    assert [one["helpful"] for one in told] == [[], ["clock"]]
    assert told[1]["text"].endswith("strip_rules would leave out: clock.")
    change(live, {"strip_rules": ["clock"]}, "recalling")
    assert report_of(live, live.client.post(GENERATE[0], json=asked))["helpful"] == []


def test_an_answer_that_was_cut_off_tells_what_was_cached(live: Running) -> None:
    scripted(live.folder, "mute", text="x", cached=3, stall_after=0)
    for given in ("mute-1", "mute-2"):
        asked = body(GENERATE[1], "mute", prompt="one two three four five", stream=True)
        with pytest.raises(httpx.ReadTimeout):
            live.client.post(GENERATE[1], json=asked, headers={"X-Request-ID": given}, timeout=2)
    row = live.row("mute-2")
    assert (row["status"], row["prompt_tokens"], row["cached_tokens"]) == ("cancelled", 5, 3)


def test_an_emptied_cache_knows_nothing(live: Running) -> None:
    live.chat("recalling")
    live.client.delete("/v1/admin/cache/recalling").raise_for_status()
    assert report_of(live, live.chat("recalling"))["report"]["outcome"] == "first"


def test_a_request_without_a_report(live: Running) -> None:
    reply = live.chat("plain")
    assert "x-cached-tokens" not in reply.headers
    assert live.row(reply.headers["x-request-id"])["cache_outcome"] is None
    where = f"/v1/admin/cache/requests/{reply.headers['x-request-id']}"
    check_problem(live, live.client.get(where), 404, "not_found")


def test_the_log_keeps_the_latest_of_each_id() -> None:
    log = CacheLog(size=2)
    for number, id in enumerate(["a", "b", "a", "c"]):
        log.add(id, "m", CacheReport("worker's", prompt_tokens=number))
    assert [(one.request_id, one.report.prompt_tokens) for one in log.latest()] == [("c", 3), ("a", 2)]
    assert log.find("b") is None


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (CacheReport("x", 2113, 1792, "memory", "changed", 1804, 0, "system"),
         "1,792 of 2,113 prompt tokens came from memory; from token 1,804 on the prompt differs from the nearest known one, in message 1 (system)."),
        (CacheReport("x", 9, 8, "disk", "hit"), "8 of 9 prompt tokens came from disk, all that can be reused."),
        (CacheReport("x", 9, 0, "none", "changed", 2), "None of 9 prompt tokens came from the cache; from token 2 on the prompt differs from the nearest known one."),
        (CacheReport("x", 9, 0, "none", "first"), "No known prompt begins like this one; all its 9 tokens were processed."),
        (CacheReport("x"), "The prefix cache was not asked: it is off, or the request was deterministic."),
    ],
)  # fmt: skip
def test_a_report_in_words(report: CacheReport, text: str) -> None:
    assert sentence(report) == text


# --- fields of a request --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [openai_chat, openai_completions])
def test_fields_become_sampling(dialect: Any) -> None:
    asked = {
        "seed": -7, "presence_penalty": 0.5, "frequency_penalty": -2, "repetition_penalty": 1.1, "repetition_context_size": 20,
        "logit_bias": {"0": -100, "17": 2.5}, "deterministic": True,
    }  # fmt: skip
    whole = body(dialect.routes[0][0]) | asked
    call = dialect.decode(json.dumps(whole).encode(), id="x", refuse_unknown=True)
    assert call.first.sampling == Sampling(
        seed=-7, presence_penalty=0.5, frequency_penalty=-2.0, repetition_penalty=1.1, repetition_context=20,
        logit_bias={0: -100.0, 17: 2.5},
    )  # fmt: skip
    assert call.first.deterministic
    nothing = dialect.decode(json.dumps(whole | dict.fromkeys(asked)).encode(), id="x", refuse_unknown=True)
    assert (nothing.first.sampling, nothing.first.deterministic) == (Sampling(), False)


@pytest.mark.parametrize("route", GENERATE)
def test_a_deterministic_answer_says_so(serving: Running, route: str) -> None:
    asked = body(route, deterministic=True, seed=5)
    reply = serving.client.post(route, json=asked)
    assert reply.headers["x-deterministic"] == f"batch=1; prefill={DETERMINISTIC_CHUNK}; seed=5"
    assert reply.json()["deterministic"] is True
    streamed = serving.client.post(route, json=asked | {"stream": True, "seed": None})
    assert streamed.headers["x-deterministic"].endswith("seed=0")
    chunks = [
        json.loads(line.removeprefix("data: "))
        for line in streamed.text.split("\n\n")
        if line and "[DONE]" not in line
    ]
    assert all(chunk["deterministic"] is True for chunk in chunks)
    usual = serving.client.post(route, json=body(route))
    assert "x-deterministic" not in usual.headers
    assert "deterministic" not in usual.json()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with a real model, whose answers are noise."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model(folder / "models" / "tiny")
    with running(folder) as server:
        yield server


def answer(server: Running, route: str, **more: Any) -> str:
    asked = body(route, "tiny", max_tokens=24, **more)
    reply = server.client.post(route, json=asked)
    assert reply.status_code == 200, reply.text
    choice = reply.json()["choices"][0]
    return choice["text"] if "text" in choice else choice["message"]["content"]


@pytest.mark.parametrize("route", GENERATE)
def test_a_seed_draws_alike(tiny: Running, route: str) -> None:
    assert answer(tiny, route, seed=1) == answer(tiny, route, seed=1) != answer(tiny, route, seed=2)
    assert answer(tiny, route, seed=-1) == answer(tiny, route, seed=-1) != answer(tiny, route, seed=1)
    assert answer(tiny, route) != answer(tiny, route)


@pytest.mark.parametrize("route", GENERATE)
def test_a_deterministic_request_needs_no_seed(tiny: Running, route: str) -> None:
    assert answer(tiny, route, deterministic=True) == answer(tiny, route, deterministic=True, seed=0)
    assert answer(tiny, route, deterministic=True) != answer(tiny, route, deterministic=True, seed=1)


@pytest.mark.parametrize("route", GENERATE)
@pytest.mark.parametrize(
    "change",
    [
        {"presence_penalty": 2},
        {"frequency_penalty": 2},
        {"repetition_penalty": 10},
        {"logit_bias": {"40": 100}},
    ],
)
def test_what_weighs_tokens_changes_a_greedy_answer(
    tiny: Running, route: str, change: dict[str, Any]
) -> None:
    assert answer(tiny, route, temperature=0, **change) != answer(tiny, route, temperature=0)


def test_a_bias_decides_and_a_context_limits(tiny: Running) -> None:
    only = answer(tiny, GENERATE[1], temperature=0, logit_bias={"40": 100})
    assert (len(set(only)), len(only)) == (1, 24)
    far, near = (
        answer(tiny, GENERATE[1], temperature=0, repetition_penalty=10, repetition_context_size=size)
        for size in (0, 1)
    )
    assert far != near


# --- with a real model ----------------------------------------------------------------------------------------------------

LONG = "Once upon a time there was a little model which knew nothing at all. " * 12


def recall(server: Running, *, max_tokens: int = 4) -> tuple[int, str, str]:
    """A long conversation, always the same: the tokens that were cached, from where, and the answer."""
    messages = [{"role": "system", "content": LONG}, {"role": "user", "content": "Hi"}]
    asked = {"model": "wide", "messages": messages, "max_tokens": max_tokens, "temperature": 0}
    reply = server.client.post(GENERATE[0], json=asked).raise_for_status()
    told = report_of(server, reply)["report"]
    assert reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == told["cached_tokens"]
    return told["cached_tokens"], told["tier"], reply.json()["choices"][0]["message"]["content"]


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A data folder with a real model whose heads are wide enough to be quantised."""
    tiny_model(tmp_path / "server" / "models" / "wide", hidden=128)
    return tmp_path / "server"


def test_what_is_cached_of_a_real_prompt(wide: Path, serve: Any) -> None:
    server: Running = serve()
    assert recall(server)[:2] == (0, "none")
    cached, tier, _ = recall(server)
    assert (cached > 100, tier) == (True, "memory")
    server.stop()
    again: Running = serve()
    cached, tier, _ = recall(again)
    assert (cached > 100, tier) == (True, "disk")
    modes = {file.is_file(): file.stat().st_mode & 0o777 for file in (wide / "prefix").rglob("*")}
    assert modes == {True: 0o600, False: 0o700}
    again.client.delete("/v1/admin/cache/wide").raise_for_status()
    wait_for(lambda: not [file for file in (wide / "prefix").rglob("*") if file.is_file()])
    assert recall(again)[:2] == (0, "none")


def test_a_real_cache_without_disk_and_without_room(wide: Path, serve: Any) -> None:
    server: Running = serve(prefix_cache_disk=False, prefix_cache_mb=0)
    assert [recall(server)[0] for _ in range(2)] == [0, 0]
    change(server, {"prefix_cache_mb": 64})
    assert [recall(server)[0] > 0 for _ in range(2)] == [False, True]
    server.stop()
    again: Running = serve(prefix_cache_disk=False)
    assert recall(again)[0] == 0
    assert not [file for file in wide.rglob("prefix/**/*") if file.is_file()]


def test_a_real_kv_cache_is_quantised(wide: Path, serve: Any) -> None:
    server: Running = serve(kv_bits=8, kv_group_size=32)
    asked = {"model": "wide", "prompt": "Once", "max_tokens": 1000, "stream": True, "logit_bias": {"40": 100}}
    with server.client.stream("POST", GENERATE[1], json=asked) as stream:
        lines = stream.iter_lines()
        next(lines)
        wait_for(lambda: figures(server, "wide")["kv_dtype"] == "8-bit (group 32)")


def test_real_guesses_do_not_change_an_answer(wide: Path, serve: Any) -> None:
    server: Running = serve()
    plain = recall(server, max_tokens=64)[2]
    assert figures(server, "wide")["drafted"] == 0
    change(server, {"speculation": "ngram"})
    assert recall(server, max_tokens=64)[2] == plain
    wait_for(lambda: figures(server, "wide")["drafted"] > 0)
    told = change(server, {"speculation": "draft", "draft_model": "wide"})
    assert told["pending"] == {"wide": ["draft_model"]}
    server.client.post("/v1/admin/models/unload/wide").raise_for_status()
    assert recall(server, max_tokens=64)[2] == plain
    wait_for(lambda: 0 < figures(server, "wide")["accepted"] <= figures(server, "wide")["drafted"])
