"""Finding models on a hub: what is asked of it, what is filtered here, what a refusal says, and what stands in for it."""

from __future__ import annotations

import asyncio
import email.utils
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mlx_panel.errors import (
    HubModelNotFound,
    HubRefused,
    HubUnavailable,
    InvalidParameter,
    MlxPanelError,
)
from mlx_panel.hub import client, details, hits, search
from mlx_panel.hub.api import Hub
from mlx_panel.hub.fake import FakeHub
from mlx_panel.hub.fake_api import TOKEN
from mlx_panel.hub.fake_faults import Refusal
from mlx_panel.hub.fake_repository import Generated, Repository, Stored, made_up
from mlx_panel.hub.token import Token
from mlx_panel.library import Capabilities, HubModel, HubPage, HubQuery, LibraryModel

from .fake_hub import HubProcess, fake_hub
from .server import Running

TEMPLATE = "{% if tools %}<tool_call>{% endif %}{% if enable_thinking %}<think>{% endif %}"


def folder(id: str, config: dict[str, Any], template: str = "", **meta: Any) -> Repository:
    """A small model with a config of its own."""
    files = {
        "config.json": Stored(json.dumps(config).encode()),
        "README.md": Stored(b"---\nlicense: apache-2.0\n---\n# Words\n" + b"x" * 300_000),
        "model.safetensors": Generated.weights(2000),
    }
    if template:
        files["tokenizer_config.json"] = Stored(json.dumps({"chat_template": template}).encode())
    return Repository(id, files, **meta)


def repositories() -> list[Repository]:
    crowd = [
        made_up(
            f"crowd/Llama-{number:03d}-{'4bit' if number % 7 == 0 else '8bit'}", 1000 + number % 50,
            downloads=10_000 - number, likes=number % 13, lastModified=f"2026-01-{1 + number % 28:02d}T00:00:00.000Z",
        )
        for number in range(120)
    ]  # fmt: skip
    qwen = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 4096}
    return [
        *crowd,
        folder("team/Qwen3-Tools", {**qwen, "quantization": {"bits": 6, "group_size": 64}}, TEMPLATE, downloads=3),
        folder("team/embedder", {"model_type": "bert"}, pipeline_tag="sentence-similarity", downloads=2),
        folder("team/seer", {**qwen, "vision_config": {}}, pipeline_tag="image-text-to-text", downloads=1),
        folder("team/torch", qwen, tags=["safetensors", "license:mit"], library_name="transformers"),
        folder("team/gated", qwen, gated="manual"),
        folder("team/private", qwen, private=True),
        Repository("team/nothing", {"config.json": Stored(b"[]"), "weights.bin": Stored(b"0")}),
    ]  # fmt: skip


EVERY = repositories()


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeHub]:
    hub = FakeHub(EVERY)
    hub.listen()
    yield hub
    hub.stop()


MakeHub = Callable[..., Hub]


@pytest_asyncio.fixture
async def make(fake: FakeHub, tmp_path: Path) -> AsyncIterator[MakeHub]:
    """A function that makes hubs; they are closed with the test."""
    made: list[Hub] = []

    def one(**given: Any) -> Hub:
        environment = given.pop("environment", {"HF_TOKEN_PATH": str(tmp_path / "none")})
        given = {"offline": lambda: False, "pause": 0.01, "endpoint": fake.url, "cache": tmp_path, **given}
        made.append(Hub(token=Token(tmp_path, environment), **given))
        return made[-1]

    yield one
    for hub in made:
        await hub.close()


def names(page: HubPage) -> list[str]:
    return [model.id for model in page.models]


async def every(hub: Hub, query: HubQuery) -> list[str]:
    """All hits, page by page."""
    found: list[str] = []
    for _ in range(400):
        page = await hub.search(query)
        assert len(page.models) <= query.limit
        found += names(page)
        if not page.cursor:
            return found
        query = HubQuery(**{**asked(query), "cursor": page.cursor})
    raise AssertionError("it does not end")


def asked(query: HubQuery) -> dict[str, Any]:
    return {name: getattr(query, name) for name in query.__struct_fields__}


# --- searching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"text": "qwen3 tools"}, ["team/Qwen3-Tools"]),
        ({"author": "team", "limit": 3}, ["team/Qwen3-Tools", "team/embedder", "team/seer"]),
        ({"architecture": "Qwen3", "capability": "vision"}, ["team/seer"]),
        ({"bits": 6}, ["team/Qwen3-Tools"]),
        ({"capability": "embedding"}, ["team/embedder"]),
        ({"capability": "reasoning"}, ["team/Qwen3-Tools"]),
        ({"capability": "tools", "author": "team"}, ["team/Qwen3-Tools"]),
        ({"sort": "size", "author": "team", "limit": 1, "capability": "embedding"}, ["team/embedder"]),
        ({"sort": "name", "text": "llama 4bit", "limit": 2}, ["crowd/Llama-000-4bit", "crowd/Llama-007-4bit"]),
        ({"text": "team/torch"}, []),
    ],
)  # fmt: skip
async def test_filters(make: MakeHub, query: dict[str, Any], expected: list[str]) -> None:
    assert names(await make().search(HubQuery(**query))) == expected


async def test_a_size_limit(make: MakeHub) -> None:
    every_hit = (await make().search(HubQuery(limit=100))).models
    limit = sorted(model.bytes for model in every_hit)[10]
    small = (await make().search(HubQuery(limit=100, max_bytes=limit))).models
    assert 10 < len(small) < len(every_hit)
    assert max(model.bytes for model in small) <= limit


async def test_a_token_shows_what_is_private(make: MakeHub) -> None:
    hub = make()
    assert names(await hub.search(HubQuery(text="private", sort="name"))) == []
    await hub.set_token(TOKEN)
    assert names(await hub.search(HubQuery(text="private", sort="name"))) == ["team/private"]


QUERIES = st.fixed_dictionaries(
    {"limit": st.sampled_from([7, 40, 99])},
    optional={
        "bits": st.sampled_from([0, 4, 8]),
        "text": st.sampled_from(["llama", "1", "qwen"]),
        "capability": st.sampled_from(["", "text", "embedding"]),
        "max_bytes": st.sampled_from([0, 890]),
        "sort": st.sampled_from(["downloads", "likes", "updated", "size", "name"]),
    },
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=QUERIES)
def test_pages_hold_every_hit_once_and_in_order(tmp_path: Path, query: dict[str, Any]) -> None:
    async def look() -> None:
        fake = FakeHub(EVERY)
        fake.listen()
        hub = Hub(fake.url, Token(tmp_path, {}), lambda: False, pause=0.01)
        try:
            paged = await every(hub, HubQuery(**query))
            whole = await every(hub, HubQuery(**{**query, "limit": 100}))
        finally:
            await hub.close()
            fake.stop()
        assert paged == whole
        assert len(paged) == len(set(paged))
        told = [hits.hit(one.info(one.commit)) for one in EVERY if not one.private]
        # The list does not tell the size of a repository without safetensors files; it was asked for.
        models = [replace(model, bytes=model.bytes or 3) for model in told if model and "mlx" in model.tags]
        wanted = HubQuery(**query)
        expected = [model for model in models if hits.here(model, wanted) and hits.fits(model, wanted)]
        assert sorted(paged) == sorted(model.id for model in expected)
        order = {model.id: hits.key(model, wanted)[0] for model in expected}
        assert [order[id] for id in paged] == sorted(order.values())

    asyncio.run(look())


async def test_the_hub_is_asked_for_no_more_than_need_be(make: MakeHub, fake: FakeHub) -> None:
    await make().search(HubQuery(limit=5))
    assert len(fake.served.requests) == 1
    fake.served.requests.clear()
    page = await make().search(HubQuery(bits=4, limit=10))
    assert len(page.models) == 10
    assert len(fake.served.requests) == 1


async def test_fits_is_the_planner_s_word(make: MakeHub) -> None:
    sizes = {"fits": 1, "evicts": 2, "too_large": 3}
    hub = make(
        needed=lambda config, weights: sizes[{0: "fits", 1: "evicts"}.get(weights % 7, "too_large")],
        verdict=lambda needed: next(name for name, size in sizes.items() if size == needed),
    )
    every_hit = (await hub.search(HubQuery(limit=100))).models
    fitting = (await hub.search(HubQuery(limit=100, fits=True))).models
    assert {model.verdict for model in every_hit} == set(sizes)
    assert {model.verdict for model in fitting} == {"fits", "evicts"}


async def test_a_size_nobody_states_is_asked_for(make: MakeHub, fake: FakeHub) -> None:
    page = await make().search(HubQuery(text="nothing"))
    (model,) = page.models
    assert (model.bytes, model.estimated) == (3, True)  # the repository's storage
    assert fake.served.requests[-1].path == "/api/models/team/nothing"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"bits": 99}, "bits"),
        ({"max_bytes": -1}, "max_bytes"),
        ({"text": "x" * 257}, "text"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": search.Cursor("0123456789abcdef").text()}, "cursor"),
    ],
)
async def test_what_no_search_can_be(make: MakeHub, given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        await make().search(HubQuery(**given))
    assert caught.value.field == field


# --- without the hub -------------------------------------------------------------------------------------------------


def own(id: str, bits: int = 4, size: int = 10) -> LibraryModel:
    return LibraryModel(
        id=id, path="", source="folder", bytes=size, verdict="fits",
        capabilities=Capabilities(kinds=("text",), architecture="llama", bits=bits),
    )  # fmt: skip


async def library() -> list[LibraryModel]:
    return [
        own("mine"),
        own("me/other", bits=8, size=5),
        own("me/third", size=7),
        own("crowd/Llama-000-4bit"),
    ]


async def test_offline_only_local_models_answer(make: MakeHub, fake: FakeHub) -> None:
    hub = make(offline=lambda: True, local=library)
    page = await hub.search(HubQuery(sort="size"))
    assert page.offline
    assert "offline" in page.reason
    assert names(page) == ["me/other", "me/third", "crowd/Llama-000-4bit", "mine"]
    assert await every(hub, HubQuery(sort="size", limit=1)) == names(page)
    assert names(await hub.search(HubQuery(text="ME third"))) == ["me/third"]
    assert names(await hub.search(HubQuery(bits=8, author="me"))) == ["me/other"]
    assert fake.served.requests == []
    with pytest.raises(HubUnavailable):
        await hub.details("crowd/Llama-001-8bit")
    with pytest.raises(HubUnavailable):
        await hub.files("crowd/Llama-001-8bit")


async def test_an_unreachable_hub_is_like_none(make: MakeHub, fake: FakeHub) -> None:
    hub = make(local=library)
    page = await hub.search(HubQuery(limit=2))
    assert [model.local for model in page.models] == [True, False]
    fake.stop()
    await hub.close()
    found = await hub.search(HubQuery(text="me/"))
    assert (found.offline, names(found)) == (True, ["me/other", "me/third"])
    assert "does not answer" in found.reason
    with pytest.raises(HubUnavailable):  # going on where the hub's page ended is not possible
        await hub.search(HubQuery(limit=2, cursor=page.cursor))


async def test_details_of_a_local_model_come_from_its_folder(make: MakeHub, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nWords")

    async def local() -> list[LibraryModel]:
        return [LibraryModel(id="me/own", path=str(tmp_path), source="folder", expected=77)]

    found = await make(offline=lambda: True, local=local).details("me/own")
    assert (found.licence, found.needed, found.config) == ("mit", 77, {"model_type": "llama"})
    assert "README.md" in [file.path for file in found.files]
    assert found.free_disk > 0


# --- what can go wrong on the way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_passing_refusal_is_waited_out(make: MakeHub, fake: FakeHub, status: int) -> None:
    hub = make()
    fake.faults.refuse = _refusal(status, 2)
    assert len((await hub.search(HubQuery(limit=5))).models) == 5
    assert len(fake.served.requests) == 3
    fake.faults.refuse = _refusal(status, 100)
    with pytest.raises(HubUnavailable, match="too many requests" if status == 429 else str(status)):
        await hub.files("team/seer")


async def test_the_hub_says_how_long_to_wait(make: MakeHub, fake: FakeHub) -> None:
    hub = make(pause=100)
    fake.faults.refuse = _refusal(429, 1, retry_after=1)
    before = asyncio.get_running_loop().time()
    await hub.files("team/seer")
    assert 1 <= asyncio.get_running_loop().time() - before < 50
    fake.faults.refuse = _refusal(429, 1, retry_after=3600)
    with pytest.raises(HubUnavailable, match="3600 s"):
        await hub.files("team/seer")


def _refusal(status: int, times: int, retry_after: int = 0) -> Refusal:
    return Refusal(status=status, times=times, retry_after=retry_after)


async def test_a_torn_answer_is_asked_for_again(make: MakeHub, fake: FakeHub) -> None:
    fake.faults.drop_every, fake.faults.drop_times = 1000, 2
    assert len((await make().details("team/Qwen3-Tools")).readme) == details.README_LIMIT
    assert len([one for one in fake.served.requests if one.path.endswith("README.md")]) == 3


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7), ("", None), ("soon", None), ("-1", None), ("Fri, 31 Dec 1999 23:59:59 GMT", 0)],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert client.retry_after(text) == seconds
    later = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=60))
    assert 50 < (client.retry_after(later) or 0) <= 60


async def test_details(make: MakeHub) -> None:
    found = await make(verdict=lambda needed: "fits").details("team/Qwen3-Tools")
    assert found.model.bytes == next(file.bytes for file in found.files if file.sha256)
    assert (found.model.bits, found.model.verdict, found.context_length) == (6, "fits", 4096)
    assert set(found.model.capabilities) == {"text", "tools", "reasoning"}
    assert found.licence == "apache-2.0"
    assert found.config["max_position_embeddings"] == 4096
    assert found.readme.startswith("---\nlicense")
    assert len(found.readme) == details.README_LIMIT
    assert found.reason == ""
    assert found.needed >= found.model.bytes


async def test_gated_models_are_explained(make: MakeHub, fake: FakeHub) -> None:
    hub = make()
    found = await hub.details("team/gated")
    assert f"{fake.url}/team/gated" in found.reason
    assert "enter a token" in found.reason
    await hub.set_token(TOKEN)
    found = await hub.details("team/gated")
    assert "the account the token belongs to" in found.reason
    assert found.files
    fake.accepted.add("team/gated")
    found = await hub.details("team/gated")
    assert (found.reason, found.model.gated) == ("", "manual")
    assert found.readme


@pytest.mark.parametrize(
    ("id", "token", "error", "words"),
    [
        ("no/model", "", HubModelNotFound, "or it is private, which takes a token"),
        ("no/model", TOKEN, HubModelNotFound, "the token does not open it"),
        ("team/private", "", HubModelNotFound, "private"),
        ("team/seer", "wrong", HubRefused, "does not accept the token"),
        ("../etc/passwd", "", InvalidParameter, "owner/name"),
        ("a//b", "", InvalidParameter, "owner/name"),
        ("a/..", "", InvalidParameter, "owner/name"),
        ("a/b/c", "", InvalidParameter, "owner/name"),
        ("a/b?c", "", InvalidParameter, "owner/name"),
    ],
)
async def test_refusals_say_what_to_do(
    make: MakeHub, id: str, token: str, error: type[MlxPanelError], words: str
) -> None:
    hub = make()
    if token:
        await hub.set_token(token)
    with pytest.raises(error, match=words):
        await hub.details(id)


async def test_a_revision_that_is_none(make: MakeHub) -> None:
    with pytest.raises(HubModelNotFound, match="no such revision"):
        await make().files("team/seer", "branch/x")
    with pytest.raises(InvalidParameter):
        await make().files("team/seer", "../x")


async def test_what_is_not_made_for_mlx(make: MakeHub) -> None:
    hub = make()
    assert "mlx-panel models convert team/torch" in (await hub.details("team/torch")).reason
    assert "no safetensors weights" in (await hub.details("team/nothing")).reason


async def test_another_server_is_no_hub(make: MakeHub, serving: Running) -> None:
    with pytest.raises(MlxPanelError, match="hub"):
        await make(endpoint=serving.url).files("team/seer")


# --- pure ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "parameters", "bits"),
    [
        ("mlx-community/Qwen3-30B-A3B-4bit", 30_000_000_000, 4),
        ("mlx-community/Mixtral-8x7B-Instruct-v0.1-q8", 56_000_000_000, 8),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 135_000_000, 0),
        ("a/Llama-3.2-1B-Instruct-bf16", 1_000_000_000, 16),
        ("a/gpt-oss-20b-MXFP4", 20_000_000_000, 4),
        ("a/gemma-3n-E4B-it-lm-6bit", 0, 6),
        ("a/Phi-3.5-mini-instruct-3-bit", 0, 3),
        ("8bit/nothing", 0, 0),
    ],
)
def test_names(id: str, parameters: int, bits: int) -> None:
    assert hits.named_parameters(id) == parameters
    assert hits.bits_of(id, {}) == bits


@pytest.mark.parametrize(
    ("counts", "total", "bits", "named", "gigabytes"),
    [
        # Packed words counted, with the total its makers declared, and without.
        ({"BF16": 9_964_787_842, "U32": 78_613_118_976}, 314_590_621_012, 8, 0, 334.4),
        ({"BF16": 9_964_787_842, "U32": 78_613_118_976}, 88_577_906_818, 8, 0, 334.4),
        # The weights in the words counted.
        ({"U32": 32_800_000_000, "BF16": 700_000}, 32_800_700_000, 4, 32_000_000_000, 18.45),
        ({"U32": 32_800_000_000, "BF16": 700_000}, 32_800_700_000, 4, 0, 18.45),
        ({"BF16": 1_000_000_000}, 333_312, 16, 0, 2.0),
        ({}, 0, 4, 7_000_000_000, 3.94),
        ({}, 0, 0, 0, 0),
    ],
)
def test_sizes_of_what_the_hub_counts(
    counts: dict[str, int], total: int, bits: int, named: int, gigabytes: float
) -> None:
    weight = hits.weigh({"parameters": counts, "total": total}, bits, named)
    assert weight.bytes / 1e9 == pytest.approx(gigabytes, rel=0.01)


@settings(deadline=None)
@given(
    parameters=st.integers(10**8, 10**12),
    bits=st.sampled_from([2, 3, 4, 6, 8]),
    group=st.sampled_from([32, 64]),
    packed=st.booleans(),
    named=st.booleans(),
)
def test_both_ways_of_counting_weigh_the_same(
    parameters: int, bits: int, group: int, packed: bool, named: bool
) -> None:
    truth = parameters * bits / 8 + 4 * parameters / group
    counts = (
        {"U32": parameters * bits // 32, "BF16": 2 * parameters // group}
        if packed
        else {"U32": parameters, "BF16": parameters // 10_000}
    )
    weight = hits.weigh({"parameters": counts}, bits, parameters if named else 0)
    assert weight.bytes == pytest.approx(truth, rel=0.001 if packed else 0.25)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (*hits.EXPAND, "id", "siblings", "sha", "cardData")


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_nothing_the_hub_says_breaks_it(raw: dict[str, Any]) -> None:
    model = hits.hit(raw)
    assert model is None or isinstance(model, HubModel)
    hits.licence_of(raw)
    for file in details.files_of(raw):
        assert not file.path.startswith("/")


@settings(deadline=None)
@given(st.text(max_size=40))
def test_paths_of_the_hub_stay_inside(path: str) -> None:
    found = details.files_of({"siblings": [{"rfilename": path, "size": 1}]})
    place = Path("/models/one")
    assert not found or (place / path).resolve().is_relative_to(place)


@settings(deadline=None)
@given(st.from_regex(details.NAME, fullmatch=True))
def test_names_that_pass_name_one_thing(id: str) -> None:
    try:
        details.check_name(id)
    except InvalidParameter:
        return
    assert httpx.URL(f"http://hub/api/models/{id}").path == f"/api/models/{id}"


# --- over HTTP -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with fake_hub("org/Tiny-1M-4bit:20000", "org/Other-2M-8bit:30000") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield hub


def test_the_routes(hub_process: HubProcess, serve: Any) -> None:
    server = serve()
    found = server.client.get("/api/models/search", params={"bits": 4, "limit": "5", "fits": "true"}).json()
    assert [model["id"] for model in found["models"]] == ["org/Tiny-1M-4bit"]
    assert found["models"][0]["verdict"] == "fits"
    one = server.client.get("/api/models/hub/org/Tiny-1M-4bit").raise_for_status().json()
    assert one["config"]["model_type"] == "llama"
    assert one["needed"] > one["model"]["bytes"]
    for params, field in (({"limit": "many"}, "limit"), ({"colour": "red"}, "colour")):
        reply = server.client.get("/api/models/search", params=params)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)
    assert server.client.get("/api/models/hub/org/none").json()["error"]["code"] == "hub_model_not_found"


def test_offline_is_a_setting_that_changes_live_and_stays(hub_process: HubProcess, serve: Any) -> None:
    server = serve(hub_offline="true")
    page = server.client.get("/api/models/search").json()
    assert page["offline"]
    assert "plain" in [model["id"] for model in page["models"]]
    state = server.client.put("/api/settings/huggingface", json={"offline": False}).raise_for_status().json()
    assert (state["offline"], state["endpoint"]) == (False, hub_process.url)
    assert not server.client.get("/api/models/search").json()["offline"]
    assert server.stop() == 0
    again = serve(hub_offline="true")
    assert not again.client.get("/api/models/search").json()["offline"]
    back = again.client.put("/api/settings/huggingface", json={"offline": None}).json()
    assert back["offline"]
