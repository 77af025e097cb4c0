"""Presets: kept in a file a person can edit, used by name, effective for the next request."""

from __future__ import annotations

import asyncio
import string
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_panel import preset_text
from mlx_panel.errors import Conflict, InvalidParameter, ModelNotFound, NotFound, SettingsError
from mlx_panel.http import preset_use
from mlx_panel.messages import GenerateRequest, LocalModel, Message, Sampling, Thinking
from mlx_panel.preset import Alias, Preset, PresetTimeouts, SamplingDefaults
from mlx_panel.preset_text import Stored, Unreadable
from mlx_panel.presets import Presets, check

from .embedding_models import tiny_bert
from .models import CHATML, tiny_model
from .server import Running, running, scripted
from .test_doors import wait_for

# --- the text ------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=30)
names = st.text(string.ascii_letters + string.digits + "_.:/ -", min_size=1, max_size=12).filter(
    lambda name: name[0] not in ".:/ -"
)
values = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
samplings = st.builds(
    SamplingDefaults,
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0.01, 1),
    top_k=st.none() | st.integers(0, 100),
    max_tokens=st.none() | st.integers(1, 100),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    stop=st.lists(texts, max_size=3).map(tuple),
)
presets = st.builds(
    Preset,
    name=names,
    model=st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
    description=texts,
    system_prompt=texts,
    sampling=samplings,
    template=st.dictionaries(st.from_regex(r"\A[a-z_]{1,6}\Z"), values, max_size=3),
    thinking=st.none() | st.booleans(),
    tools=st.sampled_from(["", "hermes_json"]),
    context_length=st.integers(0, 4096),
    kv_bits=st.sampled_from([None, 0, 4, 8]),
    auto_start=st.booleans(),
    pinned=st.booleans(),
    priority=st.sampled_from(["normal", "low"]),
    timeouts=st.builds(PresetTimeouts, chat=st.none() | st.floats(1, 100)),
)
aliases = st.builds(
    Alias,
    pattern=st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
    target=st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
    kind=st.sampled_from(["exact", "prefix"]),
    priority=st.sampled_from(["normal", "low"]),
    enabled=st.booleans(),
    note=texts,
)
stores = st.builds(
    lambda some, rules: Stored(aliases=tuple(rules)).with_presets({one.name: one for one in some}),
    st.lists(presets, max_size=3),
    st.lists(aliases, max_size=3),
)


@settings(deadline=None, max_examples=150)
@given(stores, stores)
def test_what_is_written_reads_as_the_same(before: Stored, after: Stored) -> None:
    """Also where it is written into a text that said something else."""
    text = preset_text.write(before)
    assert preset_text.read(text) == before
    assert preset_text.read(preset_text.write(after, text)) == after


def test_comments_of_a_person_stay() -> None:
    text = '# mine\n[presets.a]\nmodel = "m" # the small one\ndescription = "x"\n\n# second\n[presets.b]\nmodel = "m"\n'
    stored = preset_text.read(text)
    changed = stored.with_presets(
        {"a": Preset(name="a", model="m", description="y"), "b": stored.by_name()["b"]}
    )
    written = preset_text.write(changed, text)
    assert written == text.replace('"x"', '"y"')
    for mine in ("# mine\n", '# mine\n[[aliases]]\npattern = "a" # as is\ntarget = "b"\n'):
        first = preset_text.write(Stored(stored.presets, preset_text.read(mine).aliases), mine)
        assert first.startswith(mine)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            '[presets.a]\nmodel = "m"\n\n[presets.a.sampling]\ntemperature = 9\n',
            "line 5: sampling.temperature",
        ),
        ("[presets.a]\nmodell = 1\n", "line 2"),
        ("[presets.a]\nmodel = \n", "line 2"),
        ("\n\nsomething = 1\n", "line 3"),
        (
            '[[aliases]]\npattern="a"\ntarget="b"\n[[aliases]]\npattern="a"\ntarget=1\n',
            "line 6: rule 2: target",
        ),
        ('[presets."?"]\nmodel = "m"\n', "line 1"),
    ],
)
def test_a_text_that_is_wrong_says_where(text: str, line: str) -> None:
    with pytest.raises(Unreadable, match=line):
        preset_text.read(text)


# --- the store -----------------------------------------------------------------------------------------------------


class Catalog:
    """Models of these names."""

    def __init__(self, *ids: str):
        self.ids = list(ids)

    async def find(self, id: str) -> LocalModel:
        if id not in self.ids:
            raise ModelNotFound(f"There are: {', '.join(self.ids)}.", field="model")
        return LocalModel(id, "", "", "", 0, 0, 0)

    async def catalog(self) -> list[LocalModel]:
        return [await self.find(id) for id in self.ids]


def store(folder: Path, *ids: str) -> Presets:
    made = Presets(folder, Catalog(*(ids or ("m", "n"))))
    made.load()
    return made


CODER = Preset(name="coder", model="m", system_prompt="Be brief.\nVery.", kv_bits=4)


async def test_what_is_kept_is_there_after_a_restart_and_the_owners_alone(tmp_path: Path) -> None:
    one = store(tmp_path)
    await one.create(CODER)
    await one.set_aliases([Alias(pattern="x", target="coder")])
    assert store(tmp_path).all() == (CODER,)
    assert store(tmp_path).aliases == one.aliases
    assert one.file.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["presets.toml"]
    await one.delete("coder")
    assert store(tmp_path).all() == ()


async def refused(call: Any, error: type[Exception], match: str, held: Presets) -> None:
    """It fails, and nothing has changed: neither in memory nor on disk."""
    before, text = (held.all(), held.aliases), held.file.read_text()
    with pytest.raises(error, match=match):
        await call
    assert (held.all(), held.aliases) == before
    assert held.file.read_text() == text


async def test_what_cannot_be_changes_nothing(tmp_path: Path) -> None:
    held = store(tmp_path)
    await held.create(CODER)
    change = msgspec.structs.replace
    other = change(CODER, name="other")
    await refused(held.create(CODER), Conflict, "preset of the name 'coder'", held)
    await refused(held.create(change(CODER, name="n")), Conflict, "model of the name 'n'", held)
    await refused(held.create(change(other, model="gone")), ModelNotFound, "m, n", held)
    await refused(held.create(change(other, kv_bits=8)), Conflict, "'coder'", held)
    await refused(held.create(change(other, tools="morse")), InvalidParameter, "hermes_json", held)
    await refused(held.create(change(other, reasoning="deep")), InvalidParameter, "think", held)
    await refused(held.create(change(other, template={"a": None})), InvalidParameter, "null", held)
    await refused(held.create(change(other, template={"a b": 1})), InvalidParameter, "variables", held)
    await refused(held.create(change(other, name="export")), InvalidParameter, "paths", held)
    await refused(held.delete("gone"), NotFound, "coder", held)
    await refused(held.duplicate("coder", "coder"), Conflict, "coder", held)
    await refused(held.replace("gone", other), NotFound, "coder", held)
    await held.create(change(other, kv_bits=None))  # says nothing about it
    await refused(held.replace("other", change(other, name="coder")), Conflict, "coder", held)
    await refused(held.replace("other", change(other, kv_bits=0)), Conflict, "coder", held)


async def test_a_change_counts_and_tells_what_starts_with_the_server(tmp_path: Path) -> None:
    told = []

    async def changed(auto: set[str]) -> None:
        told.append(auto)

    held = Presets(tmp_path, Catalog("m", "n"), changed)
    await held.create(msgspec.structs.replace(CODER, auto_start=True, pinned=True))
    assert (held.auto_models(), held.pinned_models(), held.changes) == ({"m"}, {"m"}, 1)
    copy = await held.duplicate("coder", "copy")
    assert (copy.auto_start, copy.pinned, copy.system_prompt) == (False, False, CODER.system_prompt)
    await held.replace("coder", msgspec.structs.replace(CODER, auto_start=True, description="x"))
    assert told == [{"m"}, set(), set()]
    assert held.engine_of("m") == {"kv_bits": 4}
    assert held.engine_of("n") == {}


async def test_aliases_follow_a_new_name(tmp_path: Path) -> None:
    held = store(tmp_path)
    await held.create(CODER)
    await held.set_aliases([Alias(pattern="x", target="coder"), Alias(pattern="y", target="n")])
    await held.replace("coder", msgspec.structs.replace(CODER, name="writer"))
    assert [alias.target for alias in held.aliases] == ["writer", "n"]


async def test_a_preset_outlives_its_model(tmp_path: Path) -> None:
    held = store(tmp_path)
    await held.create(CODER)
    later = store(tmp_path, "n")
    assert later.get("coder") == CODER
    await later.replace("coder", msgspec.structs.replace(CODER, description="old"))
    await refused(
        later.replace("coder", msgspec.structs.replace(CODER, model="gone")), ModelNotFound, "n", later
    )


async def test_an_import_is_all_or_nothing(tmp_path: Path) -> None:
    held = store(tmp_path)
    await held.create(CODER)
    await held.set_aliases([Alias(pattern="x", target="coder")])
    text = await held.export()
    await refused(held.import_(text), Conflict, "coder", held)
    more = '[presets.a]\nmodel = "n"\n[presets.b]\nmodel = "gone"\n'
    await refused(held.import_(more), ModelNotFound, "m, n", held)
    await refused(held.import_("[presets.a]\nmodel = 1\n"), InvalidParameter, "line 2", held)
    both = '[presets.a]\nmodel = "n"\nkv_bits = 4\n[presets.b]\nmodel = "n"\nkv_bits = 8\n'
    await refused(held.import_(both), Conflict, "kv_bits", held)
    rule = '[[aliases]]\npattern = "x"\ntarget = "m"\n'
    await refused(held.import_(rule), Conflict, "'x'", held)
    assert await held.import_(text.replace("brief", "long"), replace=True) == ["coder"]
    assert held.find("coder").system_prompt == "Be long.\nVery."
    await held.import_(rule, replace=True)
    assert [alias.target for alias in held.aliases] == ["m"]
    assert await held.import_(more.replace("gone", "m")) == ["a", "b"]
    assert preset_text.read(await held.export("a")) == Stored((held.find("a"),))


async def test_what_was_written_by_hand_meanwhile_is_not_lost(tmp_path: Path) -> None:
    held = store(tmp_path)
    await held.create(CODER)
    held.file.write_text(held.file.read_text() + '\n# by hand\n[presets.hand]\nmodel = "n"\n')
    await held.create(msgspec.structs.replace(CODER, name="other"))
    assert [preset.name for preset in held.all()] == ["coder", "hand", "other"]
    assert "# by hand" in held.file.read_text()
    held.file.write_text(held.file.read_text() + "[broken\n")
    await refused(held.delete("hand"), Conflict, "line", held)


@pytest.mark.parametrize(
    "text",
    [
        "[presets.a\n",
        '[presets.a]\nmodel = "m"\ntools = "morse"\n',
        '[presets.a]\nmodel = "m"\nkv_bits = 4\n[presets.b]\nmodel = "m"\nkv_bits = 8\n',
        '[[aliases]]\nkind = "regex"\npattern = "("\ntarget = "m"\n',
    ],
)
def test_a_damaged_file_stops_the_start_and_stays(tmp_path: Path, text: str) -> None:
    (tmp_path / "presets.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"presets.toml cannot be used: .*line \d"):
        store(tmp_path)
    assert (tmp_path / "presets.toml").read_text() == text


async def test_changes_at_once_come_one_after_the_other(tmp_path: Path) -> None:
    held = store(tmp_path)
    wanted = [Preset(name=f"p{number}", model="m") for number in range(10)]
    await asyncio.gather(*map(held.create, wanted))
    assert len(store(tmp_path).all()) == 10
    assert len(tomllib.loads(held.file.read_text())["presets"]) == 10


def test_a_name_is_one_line() -> None:
    for name in ("a\n", "", "-a", "a\x00", "é", "x" * 129):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"name": name, "model": "m"}, Preset)
    for name in ("a ", "export", "a/status"):
        with pytest.raises(InvalidParameter):
            check(Preset(name=name, model="m"))


# --- what a request becomes ----------------------------------------------------------------------------------------

PROMPTED = Preset(
    name="p", model="m", system_prompt="Be brief.", sampling=SamplingDefaults(temperature=0.3, top_k=5, stop=("END",)),
    template={"language": "en", "mood": "grave"}, thinking=False, context_length=100,
)  # fmt: skip
USER = (Message("user", "Hi"),)


@given(st.sets(st.sampled_from(preset_use.SAID)), samplings)
def test_what_a_body_says_stands_and_the_rest_is_the_presets(
    said: set[str], sampling: SamplingDefaults
) -> None:
    asked = GenerateRequest(
        "a", "p", messages=USER, sampling=Sampling(temperature=0.0, top_k=7), max_tokens=3, stop=("S",)
    )
    preset = Preset(name="p", model="m", sampling=sampling)
    made = preset_use.use(asked, preset, frozenset(said))
    for name in preset_use.NUMBERS:
        wanted = getattr(sampling, name)
        ours = wanted is not None and name not in said
        assert getattr(made.sampling, name) == (wanted if ours else getattr(asked.sampling, name))
    assert made.stop == (sampling.stop if sampling.stop and "stop" not in said else asked.stop)
    most = sampling.max_tokens
    assert made.max_tokens == (most if most is not None and "max_tokens" not in said else 3)
    assert made.cut_to_context == (made.max_tokens == most and "max_tokens" not in said and most is not None)


def test_a_conversation_gets_what_it_does_not_have() -> None:
    made = preset_use.use(GenerateRequest("a", "p", messages=USER), PROMPTED, frozenset())
    assert made.messages == (Message("system", "Be brief."), *USER)
    assert (made.thinking.enabled, made.template) == (False, PROMPTED.template)
    own = (*USER, Message("system", "Mine."))
    asked = GenerateRequest(
        "a", "p", messages=own, thinking=Thinking(enabled=True, budget=5), template={"mood": "merry"}
    )
    made = preset_use.use(asked, PROMPTED, frozenset())
    assert made.messages == own
    assert made.thinking == asked.thinking
    assert made.template == {"language": "en", "mood": "merry"}
    assert preset_use.blamed(asked, PROMPTED) == {"template.language": "preset.template.language"}
    raw = preset_use.use(GenerateRequest("a", "p", prompt="Hi"), PROMPTED, frozenset())
    assert (raw.messages, raw.template, raw.context_length, raw.stop) == (None, {}, 100, ("END",))


@pytest.mark.parametrize(
    "asked",
    [
        {"thinking": Thinking(True)},
        {"thinking": Thinking(effort="low")},
        {"template": {"enable_thinking": True}},
    ],
)
def test_a_requests_own_word_on_reasoning_wins(asked: dict[str, Any]) -> None:
    request = GenerateRequest("a", "p", messages=USER, **asked)
    for preset in (
        Preset(name="p", model="m", thinking=False),
        Preset(name="p", model="m", template={"enable_thinking": False}),
    ):
        made = preset_use.use(request, preset, frozenset())
        assert (made.thinking, made.template) == (request.thinking, request.template)


# --- over HTTP, with real models -----------------------------------------------------------------------------------

# What the template reads shows in the number of prompt tokens.
TELLING = CHATML + "{% if mood %}{{ mood }}{% endif %}"
CALL = '<think>hm</think><tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
OTHER = '<thinking>hm</thinking>[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}]'
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("presets")
    tiny_model(folder / "models" / "tiny", template=TELLING)
    tiny_bert(folder / "models" / "bert")
    scripted(folder, "caller", text=CALL, reasoning="think", tools="hermes_json")
    scripted(folder, "stranger", text=OTHER, reasoning="think", tools="hermes_json")
    with running(folder, prefix_cache_mb=0) as server:
        yield server


def put(server: Running, name: str, model: str = "tiny", **more: Any) -> dict[str, Any]:
    """Make or change a preset."""
    known = server.client.get(f"/api/profiles/{name}").status_code == 200
    body = {"name": name, "model": model, **more}
    reply = (
        server.client.put(f"/api/profiles/{name}", json=body)
        if known
        else server.client.post("/api/profiles", json=body)
    )
    return reply.raise_for_status().json()


def sampled(reply: Any) -> dict[str, str]:
    return dict(part.split("=") for part in reply.headers["x-sampling"].split("; "))


def test_a_preset_answers_by_its_name_and_changes_take_effect_at_once(house: Running) -> None:
    put(house, "live", sampling={"temperature": 0, "max_tokens": 4, "seed": 3})
    reply = house.chat("live")
    assert (reply.status_code, reply.json()["model"], reply.headers["x-preset"]) == (200, "live", "live")
    assert reply.json()["usage"]["completion_tokens"] == 4
    assert sampled(reply) == {"temperature": "0", "max_tokens": "4", "n": "1"}
    plain = house.chat("tiny", max_tokens=4, temperature=0)
    assert reply.json()["choices"] == plain.json()["choices"]
    assert "x-preset" not in plain.headers
    row = house.row(reply.headers["x-request-id"])
    assert (row["model_requested"], row["model_used"]) == ("live", "tiny")
    pid = house.client.get("/api/servers/live/status").json()["pid"]
    put(house, "live", sampling={"temperature": 0.5, "max_tokens": 6}, system_prompt="Be brief.")
    later = house.chat("live")
    assert sampled(later)["temperature"] == "0.5"
    assert later.json()["usage"]["completion_tokens"] == 6
    assert later.json()["usage"]["prompt_tokens"] > plain.json()["usage"]["prompt_tokens"]
    own = [{"role": "developer", "content": "Mine."}, {"role": "user", "content": "Hello"}]
    said = house.chat("live", messages=own)
    assert (
        said.json()["usage"]["prompt_tokens"]
        == house.chat("tiny", messages=own, max_tokens=1).json()["usage"]["prompt_tokens"]
    )
    assert house.client.get("/api/servers/live/status").json()["pid"] == pid


def test_what_the_body_says_wins(house: Running) -> None:
    put(house, "warm", sampling={"temperature": 1.5, "top_k": 9, "max_tokens": 4, "stop": ["@@"], "seed": 7})
    found = sampled(house.chat("warm", temperature=0, max_completion_tokens=2, stop=[]))
    assert found == {"temperature": "0", "max_tokens": "2", "n": "1"}
    found = sampled(house.chat("warm", top_k=0, temperature=None))
    assert (found["temperature"], found["top_k"], found["seed"], found["stop"]) == ("1.5", "0", "7", "1")
    assert sampled(house.chat("warm", top_p=0))["temperature"] == "0"
    refused = house.chat("warm", min_tokens=5)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "min_tokens")
    raw = house.client.post("/v1/completions", json={"model": "warm", "prompt": ["a", "b"]})
    assert (sampled(raw)["max_tokens"], len(raw.json()["choices"])) == ("4", 2)


def test_the_context_is_the_presets_and_its_own_max_tokens_are_cut_to_it(house: Running) -> None:
    tokens = house.chat("tiny", max_tokens=1).json()["usage"]["prompt_tokens"]
    put(house, "short", context_length=tokens + 3, sampling={"max_tokens": 50, "temperature": 0})
    cut = house.chat("short")
    assert cut.json()["usage"]["completion_tokens"] == 3
    assert cut.json()["choices"][0]["finish_reason"] == "length"
    asked = house.chat("short", max_tokens=50)
    assert asked.json()["error"]["code"] == "context_length_exceeded"
    assert house.chat("short", "Hello " * 20).json()["error"]["code"] == "context_length_exceeded"
    assert house.chat("tiny", "Hello " * 20, max_tokens=1).status_code == 200


def test_a_template_gets_its_values_and_what_it_does_not_read_is_blamed(house: Running) -> None:
    before = house.chat("tiny", max_tokens=1).json()["usage"]["prompt_tokens"]
    put(house, "moody", template={"mood": "grave and very earnest"}, sampling={"max_tokens": 1})
    assert house.chat("moody").json()["usage"]["prompt_tokens"] > before
    assert house.chat("moody", chat_template_kwargs={"mood": ""}).json()["usage"]["prompt_tokens"] == before
    put(house, "moody", template={"weather": "fair"})
    wrong = house.chat("moody")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "preset.template.weather")
    put(house, "moody", thinking=True)
    assert house.chat("moody").json()["error"]["param"] == "preset.thinking"


def test_a_preset_reads_answers_with_another_dialect_and_style(house: Running) -> None:
    put(house, "foreign", "stranger", tools="mistral_native", reasoning="thinking")
    for model, text in (("caller", CALL), ("stranger", OTHER)):
        message = house.chat(model, tools=[ADD]).json()["choices"][0]["message"]
        assert ("tool_calls" in message) == (model == "caller"), text
    message = house.chat("foreign", tools=[ADD]).json()["choices"][0]["message"]
    assert message["reasoning_content"] == "hm"
    assert message["tool_calls"][0]["function"]["name"] == "add"


def test_a_real_model_is_held_to_the_presets_dialect(house: Running) -> None:
    """The grammar of a forced call, and the parser that reads it, are those of the preset."""
    put(house, "mistral", tools="mistral_native", sampling={"temperature": 0, "max_tokens": 60})
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    strict = {"type": "function", "function": {"name": "add", "parameters": nothing, "strict": True}}
    forced = {"tools": [strict], "tool_choice": "required", "parallel_tool_calls": False}
    ours, theirs = (
        house.chat(model, **forced, max_tokens=60, temperature=0) for model in ("mistral", "tiny")
    )
    for reply in (ours, theirs):
        assert reply.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "add", reply.text
    counts = [reply.json()["usage"]["completion_tokens"] for reply in (ours, theirs)]
    assert counts[0] != counts[1]


def test_two_presets_share_a_process_and_differ(house: Running) -> None:
    put(house, "one", sampling={"max_tokens": 2})
    put(house, "two", sampling={"max_tokens": 5})
    assert [house.chat(name).json()["usage"]["completion_tokens"] for name in ("one", "two", "one")] == [
        2,
        5,
        2,
    ]
    servers = {one["preset"]: one for one in house.client.get("/api/servers").json()["servers"]}
    assert servers["one"]["pid"] == servers["two"]["pid"]
    assert "two" in servers["one"]["shared_with"]


def test_a_presets_own_time_limit(house: Running) -> None:
    put(house, "hasty", "silent", timeouts={"chat": 1})
    reply = house.chat("hasty")
    assert (reply.status_code, reply.json()["timeout_seconds"]) == (408, 1)


def test_the_cache_of_a_model_waits_for_its_next_load(house: Running) -> None:
    scripted(house.folder, "cached", text="Hi.")
    house.client.post("/v1/admin/models/load/cached").raise_for_status()

    def state() -> dict[str, Any]:
        models = house.client.get("/v1/admin/models/status").json()["models"]
        return next(model for model in models if model["id"] == "cached")

    assert state()["pending"] == []
    put(house, "small-cache", "cached", kv_bits=4, kv_group_size=32)
    assert state()["pending"] == ["kv_bits", "kv_group_size"]
    shown = house.client.get("/api/settings/engine/cached").json()
    assert shown["presets"] == {"cached": {"kv_bits": 4, "kv_group_size": 32}}
    taken = house.client.put("/api/settings/engine/cached", json={"kv_bits": 8})
    assert (taken.status_code, taken.json()["error"]["param"]) == (409, "kv_bits")
    house.client.post("/v1/admin/models/unload/cached")
    assert house.chat("small-cache").status_code == 200
    assert state()["cache"]["kv_dtype"] == "4-bit (group 32)"
    assert state()["pending"] == []


def test_a_preset_of_an_embedding_model(house: Running) -> None:
    put(house, "vectors", "bert", timeouts={"embeddings": 60}, system_prompt="About conversations only.")
    ours, theirs = (
        house.client.post("/v1/embeddings", json={"model": model, "input": "the cat"})
        for model in ("vectors", "bert")
    )
    assert (ours.status_code, ours.headers["x-preset"], ours.json()["model"]) == (200, "vectors", "vectors")
    assert ours.json()["data"] == theirs.json()["data"]
    wrong = house.chat("vectors")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "wrong_model_kind")


def test_everything_by_http(house: Running) -> None:
    client = house.client
    made = client.post("/api/profiles", json={"name": "a/b c", "model": "plain", "description": "x"})
    assert (made.status_code, made.json()["timeouts"]) == (
        201,
        {"chat": None, "completions": None, "embeddings": None},
    )
    assert client.get("/api/profiles/a%2Fb%20c").json() == made.json()
    assert client.get("/v1/models/a/b%20c").json()["owned_by"] == "preset"
    assert client.put("/api/profiles/a%2Fb%20c", json=made.json()).json() == made.json()
    again = client.post("/api/profiles", json={"name": "a/b c", "model": "plain"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
    copy = client.post("/api/profiles/a%2Fb%20c/duplicate", json={"name": "copy"})
    assert (copy.status_code, copy.json()["description"]) == (201, "x")
    text = client.get("/api/profiles/copy/export")
    assert text.headers["content-type"].startswith("application/toml")
    assert client.post("/api/profiles/import", json={"toml": text.text}).status_code == 409
    moved = client.put("/api/profiles/copy", json={"name": "moved", "model": "plain"})
    assert moved.json()["name"] == "moved"
    assert client.get("/api/profiles/copy").status_code == 404
    assert client.post("/api/profiles/import", json={"toml": text.text}).json() == {"imported": ["copy"]}
    whole = client.get("/api/profiles/export").text
    assert client.post("/api/profiles/import", json={"toml": whole, "replace": True}).status_code == 200
    assert client.delete("/api/profiles/moved").json() == {"status": "deleted", "name": "moved"}
    assert client.delete("/api/profiles/moved").status_code == 404
    for wrong, field, word in (
        ({"sampling": {"temperature": 3}}, "sampling.temperature", "<= 2"),
        ({"sampling": {"heat": 3}}, "sampling", "'heat'"),
        ({"heat": 3}, "heat", "'heat'"),
    ):
        reply = client.post("/api/profiles", json={"name": "wrong", "model": "plain", **wrong})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)
        assert word in reply.json()["detail"]


def test_a_model_that_goes_leaves_its_preset_behind(house: Running) -> None:
    scripted(house.folder, "passing", text="Hi.")
    put(house, "orphan", "passing")
    assert house.chat("orphan").status_code == 200
    house.client.post("/v1/admin/models/unload/passing")
    (house.folder / "models" / "passing" / "fake.json").unlink()
    (house.folder / "models" / "passing").rmdir()
    gone = house.chat("orphan")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
    assert "'passing'" in gone.json()["detail"]
    assert "orphan" in house.client.get("/api/profiles").json()["missing"]
    listed = [model["id"] for model in house.client.get("/v1/models").json()["data"]]
    assert "orphan" not in listed
    assert "one" in listed


def test_models_that_start_with_the_server(tmp_path: Path) -> None:
    text = (
        '[presets.early]\nmodel = "plain"\nauto_start = true\npinned = true\n[presets.calm]\nmodel = "late"\n'
    )
    (tmp_path / "presets.toml").write_text(text)
    with running(tmp_path) as server:
        assert server.client.get("/api/servers/early/health").status_code in (200, 503)

        def state(name: str) -> str:
            return server.client.get(f"/api/servers/{name}/status").json()["state"]

        wait_for(lambda: state("early") == "ready")
        assert state("calm") == "available"
        assert server.client.get("/api/servers/early/status").json()["pinned"]
        put(server, "calm", "late", auto_start=True)
        wait_for(lambda: state("calm") == "ready")


def test_a_damaged_file_is_said_and_kept(tmp_path: Path) -> None:
    (tmp_path / "presets.toml").write_text("[presets.a]\nmodel = 3\n")
    with pytest.raises(AssertionError, match="line 2: model"), running(tmp_path):
        pass
    assert (tmp_path / "presets.toml").read_text() == "[presets.a]\nmodel = 3\n"
