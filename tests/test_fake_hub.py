"""The fake hub behaves like the hub: the hub's own library fetches from it, and its faults are what they say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi, errors, snapshot_download
from hypothesis import given
from hypothesis import strategies as st

from mlx_panel.hub.fake_repository import BLOCK, Generated

from .fake_hub import HubProcess, fake_hub

SIZE = 3_000_000
TOKEN = {"Authorization": "Bearer hf_fake"}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("repositories")
    (folder / "real" / "one").mkdir(parents=True)
    (folder / "real" / "one" / "config.json").write_text('{"model_type": "llama"}')
    (folder / "real" / "one" / "sub").mkdir()
    (folder / "real" / "one" / "sub" / "note.txt").write_text("a note")
    (folder / "real" / "one" / "hub.json").write_text('{"downloads": 7, "tags": ["mlx", "vision"]}')
    with fake_hub(f"made/up:{SIZE}:2", "made/other:1000", folder=folder) as one:
        yield one


@pytest.fixture
def hub(process: HubProcess) -> Iterator[HubProcess]:
    yield process
    process.set(reset=True)
    process.forget()


def weights(hub: HubProcess, **headers: str) -> httpx.Response:
    return hub.client.get(
        "/made/up/resolve/main/model-00001-of-00002.safetensors", headers=headers, follow_redirects=True
    )


@given(st.integers(0, 3 * BLOCK), st.integers(0, 3 * BLOCK), st.integers(0, 300))
def test_made_up_bytes_are_those_of_their_place(start: int, length: int, head: int) -> None:
    content = Generated(3 * BLOCK + 17, seed=1, head=b"h" * head)
    whole = content.read(0, content.size)
    assert len(whole) == content.size
    assert content.read(start, start + length) == whole[start : start + length]
    assert hashlib.sha256(whole).hexdigest() == content.sha256
    assert whole[:head] == b"h" * head
    assert len({whole[n : n + BLOCK] for n in range(0, 3 * BLOCK, BLOCK)}) == 3


def test_the_hubs_own_library_fetches_a_model(hub: HubProcess, tmp_path: Path) -> None:
    for cdn in (False, True):
        hub.set(cdn=cdn)
        cache = tmp_path / str(cdn)
        place = Path(snapshot_download("made/up", endpoint=hub.url, cache_dir=cache))
        found = sorted(file.name for file in place.iterdir())
        assert found == ["README.md", "config.json", *(f"model-0000{n}-of-00002.safetensors" for n in (1, 2))]
        for file in place.glob("*.safetensors"):
            assert hashlib.sha256(file.read_bytes()).hexdigest() == file.resolve().name
    place = Path(snapshot_download("real/one", endpoint=hub.url, cache_dir=tmp_path))
    assert (place / "sub" / "note.txt").read_text() == "a note"


def test_the_hubs_own_library_searches(hub: HubProcess) -> None:
    api = HfApi(endpoint=hub.url)
    assert [one.id for one in api.list_models(search="UP")] == ["made/up"]
    assert [one.id for one in api.list_models(filter=["mlx", "vision"])] == ["real/one"]
    assert [one.id for one in api.list_models(sort="downloads", limit=1)] == ["real/one"]
    assert {one.id for one in api.list_models(author="made")} == {"made/up", "made/other"}
    first = hub.client.get("/api/models", params={"limit": 2})
    rest = hub.client.get(first.links["next"]["url"])
    assert len({one["id"] for one in first.json() + rest.json()}) == 3
    assert "next" not in rest.links
    info = api.model_info("made/up", files_metadata=True)
    assert info.siblings is not None
    assert info.safetensors is not None
    assert sum(file.size or 0 for file in info.siblings) >= SIZE - 1000
    assert info.safetensors.total == pytest.approx(SIZE / 2, rel=0.01)
    assert api.whoami(token="hf_fake")["name"] == "somebody"
    with pytest.raises(errors.HfHubHTTPError):
        api.whoami(token="hf_wrong")


def test_what_is_not_there_and_what_is_not_for_everybody(hub: HubProcess) -> None:
    api = HfApi(endpoint=hub.url)
    with pytest.raises(errors.RepositoryNotFoundError):
        api.model_info("made/nothing")
    with pytest.raises(errors.RevisionNotFoundError):
        api.model_info("made/up", revision="elsewhere")
    with pytest.raises(errors.EntryNotFoundError):
        api.hf_hub_download("made/up", "nothing.json")
    hub.set(repository={"id": "made/other", "gated": "manual"})
    assert api.model_info("made/other").gated == "manual"
    url = "/made/other/resolve/main/config.json"
    for headers, status in (({}, 401), (TOKEN, 403)):
        reply = hub.client.get(url, headers=headers)
        assert (reply.status_code, reply.headers["x-error-code"]) == (status, "GatedRepo")
    hub.set(repository={"id": "made/other", "accepted": True})
    assert hub.client.get(url, headers=TOKEN).status_code == 200
    hub.set(repository={"id": "made/other", "gated": "", "private": True})
    assert hub.client.get("/api/models/made/other").headers["x-error-code"] == "RepoNotFound"
    assert hub.client.get("/api/models/made/other", headers=TOKEN).status_code == 200
    hub.set(repository={"id": "made/other", "private": False})


def test_parts(hub: HubProcess) -> None:
    whole = weights(hub)
    size, etag = len(whole.content), whole.headers["etag"]
    part = weights(hub, Range="bytes=1000000-", **{"If-Range": etag})
    assert (part.status_code, part.headers["content-range"]) == (206, f"bytes 1000000-{size - 1}/{size}")
    assert part.content == whole.content[1_000_000:]
    assert weights(hub, Range="bytes=1-", **{"If-Range": '"other"'}).status_code == 200
    assert weights(hub, Range=f"bytes={size}-").status_code == 416
    assert hub.served("1-of-00002.safetensors") == [[0, size], [1_000_000, size], [0, size]]
    head = hub.client.head("/made/up/resolve/main/model-00001-of-00002.safetensors")
    assert (head.headers["x-linked-size"], head.headers["content-length"]) == (str(size), str(size))


def test_faults(hub: HubProcess) -> None:
    whole = weights(hub).content
    hub.set(ignore_range=1)
    assert [weights(hub, Range="bytes=5-").status_code for _ in range(2)] == [200, 206]
    hub.set(refuse={"status": 429, "times": 2, "path": "safetensors", "retry_after": 3})
    assert [weights(hub).status_code for _ in range(3)] == [429, 429, 200]
    hub.set(corrupt={"path": "1-of-00002.safetensors", "start": 10, "stop": 12})
    wrong = weights(hub).content
    assert [n for n, (one, other) in enumerate(zip(wrong, whole, strict=True)) if one != other] == [10, 11]
    assert weights(hub).content == whole
    hub.set(wrong_length=-100, wrong_length_times=1)
    assert weights(hub).content == whole[:-100]
    hub.set(wrong_length=100, wrong_length_times=1)
    with pytest.raises(httpx.RemoteProtocolError):
        weights(hub)
    hub.set(drop_every=1_000_000, drop_times=1)
    hub.forget()
    with pytest.raises(httpx.RemoteProtocolError):
        weights(hub)
    assert hub.served() == [[0, 1_000_000]]
    assert weights(hub).content == whole
    hub.set(reset=True, cdn=True)
    assert weights(hub).content == whole
    assert [one["host"].split(":")[0] for one in hub.log()["requests"]][-1] == "localhost"
    assert hub.client.post("/_fake", json={"nonsense": 1}).status_code == 400


def test_a_new_commit(hub: HubProcess) -> None:
    before = hub.client.get("/api/models/made/other").json()["sha"]
    hub.set(repository={"id": "made/other", "move": {"config.json": "{}"}})
    after = hub.client.get("/api/models/made/other").json()["sha"]
    assert before != after
    assert hub.client.get("/made/other/resolve/main/config.json").text == "{}"
    assert hub.client.get(f"/made/other/resolve/{before}/config.json").text != "{}"
