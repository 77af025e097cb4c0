"""The models on this machine and the jobs on them: through a real server, and by themselves where that says more."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from huggingface_hub import scan_cache_dir
from hypothesis import given
from hypothesis import strategies as st

from mlx_panel.errors import Conflict, InvalidParameter, ModelNotFound, NotFound
from mlx_panel.hub import convert, delete
from mlx_panel.hub.disk import Shelf
from mlx_panel.hub.library import Library
from mlx_panel.hub.safetensors_header import read_header
from mlx_panel.hub.tasks import Job, Tasks
from mlx_panel.hub.verify import Check
from mlx_panel.library import Capabilities, ConvertOrder, Task
from mlx_panel.messages import LocalModel
from mlx_panel.settings import Settings

from .gguf_files import Sample
from .models import tiny_model
from .server import Running, scripted

COMMIT = "c" * 40
Serve = Callable[..., Running]


def cached(cache: Path, id: str, source: Path, commit: str = COMMIT) -> Path:
    """A model in the hub's cache as its own library lays it out; the snapshot's folder."""
    repository = cache / f"models--{id.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    for file in source.iterdir():
        data = file.read_bytes()
        large = file.suffix == ".safetensors"
        name = (
            hashlib.sha256(data).hexdigest()
            if large
            else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        )
        (repository / "blobs" / name).write_bytes(data)
        (snapshot / file.name).symlink_to(f"../../blobs/{name}")
    return snapshot


def follow(server: Running, task: dict[str, Any]) -> list[dict[str, Any]]:
    """All that is said of a task until it is over."""
    with server.client.stream("GET", f"/api/models/tasks/{task['id']}/progress", timeout=90) as stream:
        return [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]


def ask(server: Running, what: str, **body: Any) -> dict[str, Any]:
    """A task, from its beginning to its end."""
    reply = server.client.post(f"/api/models/{what}", json=body)
    assert reply.status_code == 202, reply.text
    return follow(server, reply.json())[-1]


def local(server: Running) -> dict[str, dict[str, Any]]:
    models = server.client.get("/api/models/local").raise_for_status().json()["models"]
    return {model["id"]: model for model in models}


# --- tasks ---------------------------------------------------------------------------------------------------


async def test_tasks_run_one_at_a_time_and_are_watched_by_any_number() -> None:
    tasks, going = Tasks(), []

    async def work(job: Job) -> None:
        going.append(1)
        for step in range(3):
            job.step(f"step {step}", step, 3)
            await asyncio.sleep(0.01)
        assert going == [1]
        going.pop()

    async def seen(id: str) -> list[Task]:
        return [task async for task in tasks.watch(id)]

    one, two = tasks.start("verify", "a", work), tasks.start("probe", "b", work)
    assert tasks.on("a") == one
    assert tasks.on("b", "verify") is None
    first, second, again = await asyncio.gather(seen(one.id), seen(two.id), seen(two.id))
    assert [found[-1].state for found in (first, second, again)] == ["done"] * 3
    assert [task.step for task in first if task.step] == sorted(task.step for task in first if task.step)
    assert second[0].state == "queued"
    assert tasks.on("a") is None
    assert [task.id for task in tasks.recent()] == [one.id, two.id]
    assert (await tasks.forget(one.id)).state == "done"
    with pytest.raises(NotFound):
        tasks.get(one.id)


async def test_a_task_that_is_cancelled_or_fails_says_so() -> None:
    tasks = Tasks()

    async def wait(job: Job) -> None:
        await asyncio.sleep(60)

    async def refuse(job: Job) -> None:
        raise Conflict("Not now.")

    async def break_down(job: Job) -> None:
        raise ZeroDivisionError("zq7canary4Kx")

    at_once, queued = tasks.start("verify", "a", wait), tasks.start("verify", "b", wait)
    assert (await tasks.cancel(queued.id)).state == "cancelled"
    assert (await tasks.cancel(at_once.id)).state == "cancelled"
    bad, worse = tasks.start("verify", "c", refuse), tasks.start("verify", "d", break_down)
    ended = {task.id: task for one in (bad, worse) for task in [[t async for t in tasks.watch(one.id)][-1]]}
    assert (ended[bad.id].state, ended[bad.id].error) == ("failed", "Not now.")
    assert ended[worse.id].state == "failed"
    assert "canary" not in ended[worse.id].error
    await tasks.stop()


# --- checking files ------------------------------------------------------------------------------------------


def bad_files(folder: Path) -> dict[str, str]:
    found = Check(folder).run()
    assert (found[-1].value > 0) == (len(found) > 1)
    return {finding.step: finding.text for finding in found[:-1]}


def test_hashes_and_headers_tell_a_damaged_file(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "source", quantize=4)
    snapshot = cached(tmp_path / "hub", "org/tiny", source)
    assert bad_files(snapshot) == bad_files(source) == {}
    blob = (snapshot / "model.safetensors").resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    assert "hash differs" in bad_files(snapshot)["model.safetensors"]
    assert "download it again" in bad_files(snapshot)["model.safetensors"]
    (source / "model.safetensors").write_bytes(data[:-5])
    assert "belong" in bad_files(source)["model.safetensors"]
    (source / "model.safetensors").write_bytes(b"\xff" * 64)
    assert "header" in bad_files(source)["model.safetensors"]
    (source / "config.json").write_text("{")
    assert "no JSON" in bad_files(source)["config.json"]
    blob.unlink()
    assert "not there" in bad_files(snapshot)["model.safetensors"]


def test_an_index_that_promises_too_much(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] |= {"extra.weight": "model.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "extra.weight" in bad_files(folder)["model.safetensors.index.json"]
    index["weight_map"] |= {"other.weight": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "missing" in bad_files(folder)["model-2.safetensors"]


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_are_a_header_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, length: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    for content in (data, length.to_bytes(8, "little") + data):
        file.write_bytes(content)
        with contextlib.suppress(ValueError):
            header = read_header(file)
            assert header.size == len(content)
            assert all(isinstance(fault, str) for fault in header.faults())


# --- deleting ------------------------------------------------------------------------------------------------


def test_deleting_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    for name in ("weights.bin", "sub/more.bin"):
        (outside / name).write_bytes(bytes(5000))
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "own.bin").write_bytes(bytes(9000))
    (folder / "there.bin").symlink_to(outside / "weights.bin")
    (folder / "sub").symlink_to(outside / "sub")
    os.link(outside / "weights.bin", folder / "shared.bin")
    own = (folder / "own.bin").stat().st_blocks * 512
    assert delete.remove(delete.hide(folder)) == own  # what has another name elsewhere frees nothing
    linked = tmp_path / "models" / "linked"
    linked.symlink_to(outside)
    assert delete.remove(delete.hide(linked)) == 0
    assert list((tmp_path / "models").iterdir()) == []
    assert (outside / "sub" / "more.bin").exists()


def test_only_what_lies_in_the_cache_is_deleted(tmp_path: Path) -> None:
    where = {
        "architecture": "",
        "dtype": "",
        "bytes": 0,
        "context_length": 0,
        "created": 0,
        "source": "hub cache",
    }
    inside = tmp_path / "hub" / "models--a--b" / "snapshots" / COMMIT
    assert (
        delete.place_of(LocalModel("a/b", str(inside), **where), tmp_path / "hub")
        == tmp_path / "hub" / "models--a--b"
    )
    for path in (
        tmp_path / "x" / "snapshots" / COMMIT,
        tmp_path / "hub" / "models--a--b",
        tmp_path / "hub" / "c" / "snapshots" / "d",
    ):
        with pytest.raises(Conflict):
            delete.place_of(LocalModel("a/b", str(path), **where), tmp_path / "hub")


# --- what can be converted -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "found", "field"),
    [
        ({}, {"bits": 4}, "bits"),
        ({"dequantize": True}, {}, "dequantize"),
        ({"dequantize": True, "bits": 4}, {"bits": 4}, "bits"),
        ({"bits": 0}, {}, "bits"),
        ({"bits": 0, "dtype": "float16", "group_size": 32}, {}, "bits"),
        ({"mode": "mxfp4", "bits": 8}, {}, "mode"),
        ({"mode": "mxfp4", "group_size": 64}, {}, "mode"),
        ({"mode": "mxfp8", "recipe": "mixed_3_6", "bits": 8}, {}, "bits"),
        ({"recipe": "mixed_3_6", "bits": 8}, {}, "bits"),
        ({}, {"kinds": ("embedding",)}, "model"),
        ({}, {"supported": False, "reason": "unknown"}, "model"),
    ],
)
def test_what_cannot_be_converted_is_refused(order: dict, found: dict, field: str) -> None:
    model = LocalModel("m", "/m", "llama", "", 0, 0, 0)
    with pytest.raises(InvalidParameter) as refused:
        convert.check(
            ConvertOrder(model="m", **order), model, Capabilities(**{"kinds": ("text",), "bits": 16, **found})
        )
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("order", "name"),
    [
        ({}, "Tiny-4bit"), ({"bits": 8}, "Tiny-8bit"), ({"recipe": "mixed_2_6"}, "Tiny-mixed_2_6"), ({"mode": "mxfp8"}, "Tiny-mxfp8"),
        ({"bits": 0, "dtype": "float16"}, "Tiny-float16"), ({"dequantize": True}, "Tiny-dequantized"), ({"name": "mine"}, "mine"),
    ],
)  # fmt: skip
def test_names_of_conversions(order: dict, name: str) -> None:
    assert (
        convert.name_of(
            ConvertOrder(model="org/Tiny", **order), LocalModel("org/Tiny", "", "llama", "", 0, 0, 0)
        )
        == name
    )


# --- by itself -----------------------------------------------------------------------------------------------


async def test_a_library_without_a_server(tmp_path: Path) -> None:
    """As the command line uses it: no pool, nothing in memory, and its books are kept."""
    tiny_model(tmp_path / "models" / "tiny")
    library = Library(Shelf(tmp_path / "models"), tmp_path)
    await library.start()
    done = [task async for task in library.watch((await library.verify("tiny")).id)][-1]
    assert done.state == "done"
    assert (await library.show("tiny")).verified is not None
    with pytest.raises(InvalidParameter):
        await library.probe("tiny")
    with pytest.raises(ModelNotFound):
        await library.delete("none")
    await library.stop()
    again = Library(Shelf(tmp_path / "models"), tmp_path, used_by=lambda id: ["the preset 'mine'"])
    await again.start()
    assert (await again.show("tiny")).verified is not None
    with pytest.raises(Conflict, match="the preset 'mine'"):
        await again.delete("tiny")
    assert await again.delete("tiny", force=True) > 100_000
    assert await again.local() == []
    await again.stop()


async def test_a_job_cancelled_as_its_process_starts_leaves_none(tmp_path: Path) -> None:
    """Whenever the cancel comes, also while the process is being started, the process is gone when it returns."""
    tiny_model(tmp_path / "models" / "tiny")
    library = Library(Shelf(tmp_path / "models"), tmp_path)
    for wait in (0.0, 0.001, 0.01, 0.05):
        task = await library.convert(ConvertOrder(model="tiny", bits=8))
        await asyncio.sleep(wait)
        assert (await library.cancel(task.id)).state == "cancelled"
        mine = await asyncio.to_thread(psutil.Process().children)
        assert [one.pid for one in mine if "mlx_panel.hub.errand_process" in one.cmdline()] == []
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]
    await library.stop()


async def test_a_model_that_comes_into_use_while_it_is_deleted_is_put_back(tmp_path: Path) -> None:
    tiny_model(tmp_path / "models" / "tiny")
    asked = []

    def downloading(id: str) -> bool:
        asked.append(id)
        return len(asked) > 1

    library = Library(Shelf(tmp_path / "models"), tmp_path, downloading=downloading)
    with pytest.raises(Conflict, match="downloaded"):
        await library.delete("tiny")
    assert asked == ["tiny", "tiny"]
    assert (await library.show("tiny")).complete
    await library.stop()


# --- through the server --------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, serve: Serve) -> Running:
    """With a tiny model of ours, one in the hub's cache, and one of which a file is missing."""
    folder = tmp_path / "server"
    tiny = tiny_model(folder / "models" / "tiny", hidden=128, layers=4)
    cached(folder / "hub", "org/cached", tiny)
    broken = cached(folder / "hub", "org/broken", tiny)
    (broken / "model.safetensors").unlink()
    scripted(folder, "calls", text="Hello.", reasoning="think", tools="hermes_json")
    for name in left_over():
        (folder / "models" / name).mkdir()
    return serve()


def left_over() -> dict[str, bool]:
    """What may lie in the folder from another time, and whether it stays."""
    return {
        ".gone.999999999-abcd.partial": False,
        ".old.01234567.deleted": False,
        f".now.{os.getpid()}-abcd.partial": True,
    }


def test_what_is_on_this_machine(server: Running, tmp_path: Path) -> None:
    models, folder = local(server), tmp_path / "server" / "models"
    assert {name: (folder / name).exists() for name in left_over()} == left_over()
    tiny, cached, broken = models["tiny"], models["org/cached"], models["org/broken"]
    assert (tiny["source"], cached["source"], cached["revision"]) == ("folder", "hub cache", COMMIT)
    assert tiny["parameters"] == cached["parameters"] > 500_000
    assert (tiny["dtype"], tiny["state"], tiny["complete"], tiny["verdict"]) == (
        "float32",
        "available",
        True,
        "fits",
    )
    assert tiny["bytes"] > 2_000_000
    assert tiny["expected"] > tiny["bytes"]
    assert (broken["complete"], broken["missing"], broken["state"]) == (
        False,
        ["model.safetensors"],
        "incomplete",
    )
    assert "org/broken" not in [model["id"] for model in server.client.get("/v1/models").json()["data"]]
    assert server.client.get("/api/models/local/org/cached").json()["id"] == "org/cached"
    assert server.client.get("/api/models/capabilities/calls").json()["kinds"] == [
        "text",
        "tools",
        "reasoning",
    ]
    for path in ("local/none", "capabilities/none"):
        reply = server.client.get(f"/api/models/{path}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    assert server.client.get("/api/models/tasks/none").status_code == 404
    assert server.client.get("/api/models/tasks/none/progress").status_code == 404


def test_verifying(server: Running, tmp_path: Path) -> None:
    good = ask(server, "verify", model="org/cached")
    assert (good["state"], good["unit"], good["done"]) == ("done", "bytes", good["total"])
    assert "by hash" in good["report"]
    assert local(server)["org/cached"]["verified"] == pytest.approx(time.time(), abs=60)
    bad = ask(server, "verify", model="org/broken")
    assert [finding["step"] for finding in bad["findings"]] == ["model.safetensors", "files"]
    assert {finding["level"] for finding in bad["findings"]} == {"action_needed"}
    assert local(server)["org/broken"]["verified"] is None
    tasks = server.client.get("/api/models/tasks").json()["tasks"]
    assert [task["id"] for task in tasks] == [good["id"], bad["id"]]
    assert server.client.delete(f"/api/models/tasks/{bad['id']}").json()["state"] == "done"
    assert len(server.client.get("/api/models/tasks").json()["tasks"]) == 1


def test_deleting_what_is_used_is_refused(server: Running, tmp_path: Path) -> None:
    server.chat("org/cached", max_tokens=2).raise_for_status()
    used = local(server)["org/cached"]["last_used"]
    assert used == pytest.approx(time.time(), abs=60)
    refused = server.client.delete("/api/models/local/org/cached")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    server.client.post("/v1/admin/models/unload/org/cached").raise_for_status()
    server.client.post("/api/profiles", json={"name": "mine", "model": "org/cached"}).raise_for_status()
    named = server.client.delete("/api/models/local/org/cached")
    assert named.status_code == 409
    assert "'mine'" in named.json()["detail"]
    assert server.client.delete("/api/models/local/org/cached", params={"force": "yes"}).status_code == 400
    prompts = Settings(tmp_path).prefix_folder(tmp_path / "server", "org/cached")
    assert prompts.exists()
    gone = server.client.delete("/api/models/local/org/cached", params={"force": "true"}).raise_for_status()
    assert not prompts.exists()
    assert gone.json()["freed"] > 2_000_000
    assert "org/cached" not in local(server)
    hub = tmp_path / "server" / "hub"
    assert [path.name for path in hub.iterdir()] == ["models--org--broken"]
    assert scan_cache_dir(hub).size_on_disk < 2 * gone.json()["freed"]


def test_when_it_was_used_outlives_the_server(server: Running, serve: Serve) -> None:
    server.chat("tiny", max_tokens=2).raise_for_status()
    used = local(server)["tiny"]["last_used"]
    server.stop()
    again = serve()
    assert local(again)["tiny"]["last_used"] == used


def test_converting(server: Running, tmp_path: Path) -> None:
    done = ask(server, "convert", model="org/cached", bits=4, group_size=32)
    assert (done["state"], done["result"], done["error"]) == ("done", "cached-4bit", "")
    models = local(server)
    assert models["cached-4bit"]["bytes"] < models["org/cached"]["bytes"] / 4
    assert models["cached-4bit"]["capabilities"]["bits"] == 4
    assert models["cached-4bit"]["parameters"] == models["org/cached"]["parameters"]
    answer = server.chat("cached-4bit", max_tokens=4).raise_for_status().json()
    assert answer["usage"]["completion_tokens"] == 4
    status = {state["id"]: state for state in server.client.get("/v1/admin/models/status").json()["models"]}
    assert status["cached-4bit"]["dtype"].startswith("4-bit (group 32)")
    refused = server.client.post("/api/models/convert", json={"model": "org/cached", "bits": 4})
    assert refused.status_code == 409
    refused = server.client.post("/api/models/convert", json={"model": "cached-4bit", "bits": 2})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "bits")
    for wrong in (
        {"model": "tiny", "bits": 7},
        {"model": "tiny", "name": "../x"},
        {"model": "tiny", "x": 1},
        {"bits": 4},
    ):
        assert server.client.post("/api/models/convert", json=wrong).status_code == 400
    assert server.client.post("/api/models/convert", json={"model": "org/broken"}).status_code == 409


def test_a_conversion_that_is_cancelled_leaves_nothing(server: Running, tmp_path: Path) -> None:
    before = {path.name for path in (tmp_path / "server" / "models").iterdir()}
    task = server.client.post("/api/models/convert", json={"model": "tiny", "bits": 8}).json()
    while not (children := errands(server)):
        time.sleep(0.02)
    busy = server.client.delete("/api/models/local/tiny")
    assert busy.status_code == 409
    assert (
        server.client.post(
            "/api/models/convert", json={"model": "org/cached", "name": "tiny-8bit"}
        ).status_code
        == 409
    )
    assert server.client.delete(f"/api/models/tasks/{task['id']}").json()["state"] == "cancelled"
    assert not any(child.is_running() for child in children)
    assert {path.name for path in (tmp_path / "server" / "models").iterdir()} == before
    assert "tiny-8bit" not in local(server)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_conversion_ends_with_its_server(server: Running, tmp_path: Path, number: int) -> None:
    server.client.post("/api/models/convert", json={"model": "tiny", "bits": 8})
    while not (children := errands(server)):
        time.sleep(0.02)
    server.process.send_signal(number)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    server.process.wait(20)
    if number == signal.SIGTERM:
        assert not list((tmp_path / "server" / "models").glob(".tiny-8bit*"))


def errands(server: Running) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if any("errand_process" in word for word in child.cmdline())]


def test_importing_a_gguf_file(server: Running, tmp_path: Path) -> None:
    file = Sample("llama").write(tmp_path / "small.gguf")
    done = ask(server, "import", file=str(file), name="imported", dtype="float32")
    assert (done["state"], done["result"], done["unit"]) == ("done", "imported", "bytes")
    assert server.chat("imported", max_tokens=2).status_code == 200
    assert (
        server.client.post("/api/models/import", json={"file": str(file), "name": "imported"}).status_code
        == 409
    )
    (tmp_path / "wrong.gguf").write_bytes(b"none")
    for wrong in (tmp_path / "wrong.gguf", tmp_path / "missing.gguf"):
        reply = server.client.post("/api/models/import", json={"file": str(wrong)})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "file")
    (tmp_path / "torn.gguf").write_bytes(file.read_bytes()[:-100])
    reply = server.client.post(
        "/api/models/import", json={"file": str(tmp_path / "torn.gguf"), "name": "torn"}
    )
    assert reply.status_code in (202, 400)
    assert reply.status_code == 400 or follow(server, reply.json())[-1]["state"] == "failed"
    hidden = {path.name for path in (tmp_path / "server" / "models").iterdir() if path.name.startswith(".")}
    assert hidden == {name for name, stays in left_over().items() if stays}


CODE = "import pathlib\npathlib.Path({canary!r}).touch()\nModel = ModelArgs = Tokenizer = Config = object\n"
MAP = {
    "AutoConfig": "modeling.Config",
    "AutoModelForCausalLM": "modeling.Model",
    "AutoTokenizer": ["modeling.Tokenizer", "modeling.Tokenizer"],
}


@pytest.mark.parametrize("trap", ["auto_map", "model_file", "unknown"])
def test_no_code_of_a_folder_is_ever_run(tmp_path: Path, serve: Serve, trap: str) -> None:
    """Read, verified, loaded, probed, converted: a folder's Python never runs."""
    canary, folder = tmp_path / "ran", tiny_model(tmp_path / "server" / "models" / "trap")
    for name in ("modeling.py", "configuration.py", "tokenization.py", "__init__.py", "setup.py"):
        (folder / name).write_text(CODE.format(canary=str(canary)))
    config = json.loads((folder / "config.json").read_text())
    more: dict[str, Any] = {
        "auto_map": {"auto_map": MAP},
        "model_file": {"model_file": "modeling.py"},
        "unknown": {"model_type": "trap", "auto_map": MAP},
    }[trap]
    (folder / "config.json").write_text(json.dumps({**config, **more}))
    known = json.loads((folder / "tokenizer_config.json").read_text())
    custom = {
        "auto_map": MAP,
        "tokenizer_class": "Tokenizer",
        "chat_template": "{{ cycler.__init__.__globals__.os.system('touch " + str(canary) + "') }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**known, **custom}))
    server = serve()
    found = server.client.get("/api/models/capabilities/trap").json()
    assert found["supported"] == (trap == "auto_map")
    assert ask(server, "verify", model="trap")["state"] == "done"
    answers = [server.chat("trap", max_tokens=2), server.client.post("/v1/admin/models/load/trap")]
    assert all(reply.status_code in (200, 400, 503) for reply in answers)
    for what in ("probe", "convert"):
        reply = server.client.post(f"/api/models/{what}", json={"model": "trap"})
        assert reply.status_code == (202 if trap == "auto_map" else 400)
        if reply.status_code == 202:
            assert follow(server, reply.json())[-1]["state"] in ("done", "failed")
    assert not canary.exists()
    assert not list((tmp_path / "server" / "models").glob("trap-4bit/*.py"))
    if trap != "unknown":
        spring(folder, tmp_path)
        assert canary.exists()  # the trap is one: who trusts the folder runs its code


def spring(folder: Path, scratch: Path) -> None:
    """Load a folder in a process of its own as nothing here does, with its code."""
    program = (
        "import sys, mlx_lm, transformers\n"
        "for load in (mlx_lm.load, transformers.AutoTokenizer.from_pretrained):\n"
        "    try: load(sys.argv[1], trust_remote_code=True)\n"
        "    except Exception: pass"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(scratch / "modules"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-c", program, str(folder)], env=environment, capture_output=True, check=True
    )
