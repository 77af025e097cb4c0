"""The parts of a download that decide: where an answer begins, which files are wanted, what may follow on what; and one
file over a network on which anything happens."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_panel.errors import Conflict, HubUnavailable, InvalidParameter
from mlx_panel.hub.cache_layout import CachedRepository, etag_of
from mlx_panel.hub.download_job import ALLOWED, OVER, RATE_SECONDS, Rate, demand
from mlx_panel.hub.fetch import BLOCK, Fetch, Passing, Source, Stop, Stopped, start_of, strong
from mlx_panel.hub.wanted import wanted
from mlx_panel.library import Download, DownloadState, HubFile

SIZE = 3 * BLOCK + 1234
CONTENT = random.Random(5).randbytes(SIZE)
SHA256, OID = hashlib.sha256(CONTENT).hexdigest(), hashlib.sha1(b"blob %d\0" % SIZE + CONTENT).hexdigest()

# --- an answer ---------------------------------------------------------------------------------------------------

sizes = st.integers(1, 1 << 40)


@given(sizes, st.data())
def test_an_answer_begins_where_it_says_or_is_refused(size: int, data: st.DataObject) -> None:
    have = data.draw(st.integers(0, size - 1))
    first, last, whole = (data.draw(st.one_of(st.just(n), sizes)) for n in (have, size - 1, size))
    length = data.draw(st.one_of(st.just(size - have), st.just(size), sizes))
    headers = {"Content-Range": f"bytes {first}-{last}/{whole}", "Content-Length": str(length)}
    right = {206: (first, last + 1, whole, length) == (have, size, size, size - have), 200: length == size}
    for status, good in right.items():
        if good:
            assert start_of(status, headers, have, size) == (have if status == 206 else 0)
        else:
            with pytest.raises(Passing):
                start_of(status, headers, have, size)


@given(st.text(max_size=40))
def test_a_range_nobody_can_read_is_refused(text: str) -> None:
    with pytest.raises(Passing):
        start_of(206, {"Content-Range": text}, 5, 10)


def test_what_has_no_length_is_read_and_what_is_packed_is_not() -> None:
    assert start_of(200, {}, 5, 10) == 0
    for status, headers in ((416, {}), (206, {}), (200, {"Content-Encoding": "gzip"})):
        with pytest.raises(Passing):
            start_of(status, headers, 5, 10)
    assert (strong('"a"'), strong('W/"a"'), strong("")) == ('"a"', "", "")


# --- one file ------------------------------------------------------------------------------------------------------


class Faulty(httpx.SyncByteStream):
    """A body that ends, breaks or goes on too long."""

    def __init__(self, data: bytes, stop: int, ending: str):
        self._data, self._stop, self._ending = data, stop, ending

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, self._stop, 50_000):
            yield self._data[start : min(start + 50_000, self._stop)]
        if self._ending == "breaks":
            raise httpx.ReadError("")
        if self._ending == "too long":
            yield b"more"


class Network:
    """Answers requests for the file, each as the next of `script` says; after those, as it should be."""

    def __init__(self, script: list[tuple[str, float]]):
        self.script = list(script)
        self.sent = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        kind, share = self.script.pop(0) if self.script else ("whole", 1.0)
        given = request.headers.get("Range", "bytes=0-")
        start = 0 if kind == "ignores" else int(given.removeprefix("bytes=").rstrip("-"))
        if kind == "503":
            return httpx.Response(503)
        if kind == "no connection":
            raise httpx.ConnectError("")
        body = bytearray(CONTENT[start:])
        if kind == "spoilt":
            body[int(share * (len(body) - 1))] ^= 1
        stop = int(share * len(body)) if kind in ("breaks", "ends") else len(body)
        self.sent += stop
        headers = {"ETag": f'"{SHA256}"', "Content-Range": f"bytes {start}-{SIZE - 1}/{SIZE}"}
        stream = Faulty(bytes(body), stop, kind)
        return httpx.Response(206 if start else 200, headers=headers, stream=stream)


def fetch(folder: Path, network: Any, stop: Stop | None = None, attempts: int = 30, **hash: str) -> Fetch:
    repository = CachedRepository(folder, "org/model")
    repository.make()
    client = httpx.Client(transport=httpx.MockTransport(network))
    source = Source(client, "http://hub", "org/model", "c" * 40, dict, pause=0.0, attempts=attempts)
    hash = hash or {"sha256": SHA256, "oid": OID}
    return Fetch(HubFile(path="model.safetensors", bytes=SIZE, **hash), source, repository, stop or Stop())


kinds = st.sampled_from(["whole", "breaks", "ends", "ignores", "503", "no connection", "too long"])
scripts = st.lists(st.tuples(kinds, st.floats(0, 1)), max_size=6)


@settings(deadline=None, max_examples=60)
@given(scripts, st.integers(0, SIZE + 10), st.booleans())
def test_whatever_happens_the_file_is_right(script: list[tuple[str, float]], left: int, large: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        one = fetch(Path(folder), Network(script), **({"sha256": SHA256} if large else {"oid": OID}))
        repository = CachedRepository(Path(folder), "org/model")
        repository.partial(one.etag).write_bytes((CONTENT + b"too long..")[:left])
        one.run()
        assert (one.done, one.have) == (True, SIZE)
        assert repository.blob(SHA256 if large else OID).read_bytes() == CONTENT
        assert not repository.partial(one.etag).exists()
        before = one.fetched
        one.run()  # it is there
        assert one.fetched == before


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from(["breaks", "ends", "503"]), st.floats(0, 1)), max_size=8),
    st.floats(0, 1),
)
def test_no_byte_comes_twice_while_the_network_only_breaks(
    script: list[tuple[str, float]], share: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        left = int(share * SIZE)
        CachedRepository(Path(folder), "org/model").make()
        CachedRepository(Path(folder), "org/model").partial(SHA256).write_bytes(CONTENT[:left])
        network = Network(script)
        one = fetch(Path(folder), network)
        one.run()
        assert one.fetched == network.sent == SIZE - left // BLOCK * BLOCK


def test_what_is_damaged_is_fetched_once_more_and_then_given_up(tmp_path: Path) -> None:
    one = fetch(tmp_path / "a", Network([("spoilt", 0.5)]))
    one.run()
    assert (one.fetched, one.retries) == (2 * SIZE, 1)
    one = fetch(tmp_path / "b", Network([("spoilt", 0.5)] * 9))
    with pytest.raises(HubUnavailable, match="wrong checksum twice"):
        one.run()
    assert one.fetched == 2 * SIZE
    # What another program left may be damaged, too; that is not the hub's fault.
    repository = CachedRepository(tmp_path / "c", "org/model")
    repository.make()
    (repository.blobs / f"{SHA256}.incomplete").write_bytes(b"x" * (2 * BLOCK))
    one = fetch(tmp_path / "c", Network([("whole", 1.0), ("spoilt", 0.5)]))
    one.run()
    assert one.fetched == 3 * SIZE - 2 * BLOCK


@pytest.mark.parametrize(
    ("kind", "words"), [("503", "the hub answered 503"), ("no connection", "the connection broke")]
)
def test_patience_ends(tmp_path: Path, kind: str, words: str) -> None:
    network = Network([("breaks", 0.5)] + [(kind, 0.0)] * 9)
    one = fetch(tmp_path, network, attempts=3)
    with pytest.raises(HubUnavailable, match=f"in 3 attempts: {words}"):
        one.run()
    assert (one.have, len(network.script)) == (SIZE // 2, 6)
    fetch(tmp_path, Network([])).run()


def test_a_stop_keeps_what_has_come(tmp_path: Path) -> None:
    stop = Stop()

    def network(request: httpx.Request) -> httpx.Response:
        stop.set()
        return Network([("whole", 1.0)])(request)

    one = fetch(tmp_path, network, stop)
    with pytest.raises(Stopped):
        one.run()
    assert 0 <= one.have < SIZE
    assert one.have == CachedRepository(tmp_path, "org/model").have(SHA256, SIZE)


@pytest.mark.parametrize("etag", ["", "main", "../../x", "A" * 40, "a" * 39])
def test_only_a_hash_names_a_blob(etag: str) -> None:
    with pytest.raises(HubUnavailable):
        etag_of("model.safetensors", "", etag)


# --- which files, which way ------------------------------------------------------------------------------------------

names = st.sampled_from(
    ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "consolidated.safetensors", "run.py", "x.bin",
     "tokenizer.model", "chat_template.jinja", "LICENSE", "README.md", "a.gguf", ".gitattributes", "vocab.txt", "logo.png"]
)  # fmt: skip
places = st.sampled_from(
    ["", "", "1_Pooling/", "2_Dense/", "onnx/", "original/", "additional_chat_templates/", "a/1_b/"]
)


@given(st.lists(st.builds(lambda place, name: place + name, places, names), unique=True))
def test_only_what_mlx_needs_is_wanted(paths: list[str]) -> None:
    files = [HubFile(path=path, bytes=len(path), oid="a" * 40) for path in paths]
    loadable = "config.json" in paths and any(
        path.endswith(".safetensors") for path in paths if path[:5] == "model"
    )
    if not loadable:
        with pytest.raises(InvalidParameter):
            wanted("org/model", files)
        return
    chosen = [file.path for file in wanted("org/model", files)]
    assert set(chosen) <= set(paths)
    assert not any(
        path.endswith((".py", ".bin", ".gguf", ".png")) or path.startswith(("onnx", "original"))
        for path in chosen
    )
    assert {
        path for path in paths if "/" not in path and path.endswith((".json", ".jinja", "LICENSE"))
    } <= set(chosen)
    assert not any("consolidated" in path for path in chosen)
    assert [len(path) for path in chosen] == sorted(len(path) for path in chosen)


@pytest.mark.parametrize("state", get_args(DownloadState))
def test_what_may_follow(state: DownloadState) -> None:
    download = Download(task="t", model="m", state=state)
    for action, states in ALLOWED.items():
        if state in states:
            demand(download, action)
        else:
            with pytest.raises(Conflict, match=f"is {state}"):
                demand(download, action)
    if state not in OVER:
        assert (
            any(state in ALLOWED[action] for action in ("pause", "resume", "cancel")) or state == "verifying"
        )


@given(st.integers(1, 1 << 30), st.integers(2, 60))
def test_a_steady_stream_has_a_steady_rate(speed: int, count: int) -> None:
    rate = Rate()
    assert rate.add(0.0, 0) == 0.0
    assert {round(rate.add(n * 0.25, n * speed) / 4 / speed, 6) for n in range(1, count)} == {1.0}
    # Once nothing comes it falls to nothing within the window.
    assert rate.add(count + RATE_SECONDS, (count - 1) * speed) == 0.0


# --- the cache -------------------------------------------------------------------------------------------------------


def test_a_snapshot_that_others_began_is_completed_with_its_config_last(tmp_path: Path) -> None:
    repository = CachedRepository(tmp_path, "org/model")
    repository.make()
    files = {"config.json": "a" * 40, "model.safetensors": "b" * 64, "1_Pooling/config.json": "c" * 40}
    for etag in files.values():
        repository.blob(etag).write_text(etag)
    place = repository.snapshot("d" * 40)
    place.mkdir(parents=True)
    (place / "model.safetensors").symlink_to("../../blobs/gone")
    assert not repository.complete("d" * 40, files)
    repository.publish("d" * 40, "feature/x", files)
    assert repository.complete("d" * 40, files)
    assert {path: (place / path).read_text() for path in files} == files
    assert (place / "1_Pooling" / "config.json").readlink() == Path("../../../blobs") / ("c" * 40)
    assert (repository.folder / "refs" / "feature" / "x").read_text() == "d" * 40
    # What a snapshot shows is never deleted, and what nobody needs is.
    repository.partial("e" * 40).write_text("part")
    assert repository.drop([*files.values(), "e" * 40]) == 4
    assert {path: (place / path).read_text() for path in files} == files
