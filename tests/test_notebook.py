"""A server in a kernel: started and stopped by hand, and in the notebook that users see first."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nbclient
import nbformat
import panel as pn
import psutil
import pytest

import mlx_panel
from mlx_panel import Server, connect
from mlx_panel.analytics import AuditFilter
from mlx_panel.errors import (
    AuditLocked,
    Conflict,
    ModelLoadFailed,
    ModelNotFound,
    ServerUnreachable,
    SettingsError,
)

from .models import tiny_model
from .server import free_port, scripted

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "notebooks" / "quickstart.ipynb"
# Where pages load things from when nobody stops them. The texts of Bokeh's and Panel's own scripts, which name further
# places for parts that are not used here, stand apart: only what a page is told to load counts there.
CDN = re.compile(r"cdn\.bokeh\.org|cdn\.holoviz\.org|fonts\.(googleapis|gstatic)\.com|unpkg\.com")
LOADED = re.compile(
    r"""<(?:script|link|img)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//|@import|url\(["']?https?:"""
)
TEXT = "Hello there from a fake model."


def workers(folder: Path) -> list[psutil.Process]:
    """The worker processes of the server with that data folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "mlx_panel.worker" in line and any(str(folder) in part for part in line):
            found.append(process)
    return found


def ask(server: Server, model: str = "fake", **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}
    return httpx.post(f"{server.base_url}/chat/completions", json=body, timeout=20)


def is_free(url: str) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return one.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scripted(tmp_path, "fake", text=TEXT)
    scripted(tmp_path, "slow", text=TEXT, repeat=100, step_seconds=0.02)
    scripted(tmp_path, "broken", fail_load="its weights are missing")
    return tmp_path


# --- start and stop ------------------------------------------------------------------------------------------


def test_start_answer_stop(folder: Path) -> None:
    server = Server(models="fake", data_dir=folder)
    assert repr(server) == "<Server stopped>"
    assert server.start() is server
    assert server.start() is server, "a second start does nothing"
    assert ask(server).json()["choices"][0]["message"]["content"] == TEXT
    assert httpx.get(f"{server.url}/health").json()["ready"]
    assert server.url in repr(server)
    assert f'href="{server.url}"' in server._repr_html_()
    assert workers(folder)
    server.stop()
    server.stop()
    assert repr(server) == "<Server stopped>"
    assert not workers(folder)
    assert is_free(server.url)
    assert not [thread for thread in threading.enumerate() if thread.name in ("mlx-panel", "audit-writer")]


def test_a_restart_keeps_the_port(folder: Path) -> None:
    server = Server(data_dir=folder)
    with server:
        url = server.url
    with server:
        assert server.url == url
        assert ask(server).status_code == 200


def test_two_servers_in_one_process(tmp_path: Path) -> None:
    for name in ("one", "two"):
        scripted(tmp_path / name, name, text=name)
    with Server(data_dir=tmp_path / "one") as one, Server(data_dir=tmp_path / "two") as two:
        assert [ask(one, "one").status_code, ask(one, "two").status_code] == [200, 404]
        assert [ask(two, "one").status_code, ask(two, "two").status_code] == [404, 200]
        page = asyncio.run(two.source.audit_rows(AuditFilter()))
        assert {row.record.model_used for row in page.rows} == {"two", None}


def test_a_busy_thread_keeps_nobody_waiting(folder: Path) -> None:
    with Server(models="fake", data_dir=folder) as server:
        client = "import sys, time, httpx; t = time.monotonic(); httpx.get(sys.argv[1]); print(time.monotonic() - t)"
        command = [sys.executable, "-c", client, f"{server.url}/health"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
            time.sleep(3)
            assert asking.poll() == 0, "answered while this thread slept"
            assert asking.stdout is not None
            assert float(asking.stdout.read()) < 1


def test_stop_lets_a_stream_finish(folder: Path) -> None:
    with Server(data_dir=folder) as server:
        body = {
            "model": "slow",
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": True,
            "max_tokens": 60,
        }
        with httpx.stream("POST", f"{server.base_url}/chat/completions", json=body, timeout=20) as stream:
            lines = stream.iter_lines()
            assert next(lines)
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            assert [line for line in lines if line][-1] == "data: [DONE]"
        stopping.join(10)
    assert not workers(folder)


def test_what_cannot_start_says_why(folder: Path) -> None:
    with Server(data_dir=folder) as server:
        with pytest.raises(AuditLocked):
            Server(data_dir=folder).start()
        taken = int(server.url.rpartition(":")[2])
        with pytest.raises(SettingsError, match=f"Port {taken} is in use"):
            Server(data_dir=folder / "other", port=taken).start()
        assert ask(server).status_code == 200
    for values, error in (
        ({"models": ["none"]}, ModelNotFound),
        ({"models": ["broken"]}, ModelLoadFailed),
        ({"max_batch": 0}, SettingsError),
        ({"no_such_setting": 1}, SettingsError),
        ({"host": "0.0.0.0"}, SettingsError),
    ):
        with pytest.raises(error):
            Server(data_dir=folder, **values).start()
    with Server(data_dir=folder):
        pass


def test_an_impatient_interrupt_ends_a_start(folder: Path) -> None:
    scripted(folder, "endless", load_seconds=60)
    server = Server("endless", data_dir=folder)
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert not server.running
    assert not workers(folder)
    with Server(data_dir=folder) as other:
        assert ask(other).status_code == 200


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match="data folder"):
        Server(data_dir=tmp_path / "file").start()


def test_settings_reach_the_server(folder: Path) -> None:
    with Server(data_dir=folder, timeout_chat_seconds=7) as server:
        limits = {limit.name: limit.value for limit in asyncio.run(server.source.timeouts())}
    assert limits["timeout_chat_seconds"] == 7


def test_before_the_first_start_there_is_nothing_to_look_at(folder: Path) -> None:
    with pytest.raises(Conflict, match="start"):
        _ = Server(data_dir=folder).overview


def test_connect(folder: Path) -> None:
    with Server(data_dir=folder) as server:
        connection = connect(server.url)
        assert connection.base_url == server.base_url
        assert server.url in repr(connection)
        panels = (
            "overview",
            "models",
            "pool",
            "pool_settings",
            "audit_settings",
            "presets",
            "aliases",
            "audit",
            "analytics",
            "sql",
            "privacy",
            "timeouts",
            "system",
            "dashboard",
        )
        for name in panels:
            assert isinstance(pn.panel(getattr(connection, name)), pn.viewable.Viewable), name
        assert connection.overview is not connection.overview
    with pytest.raises(ServerUnreachable, match="Is the server running"):
        connect(server.url)


def test_what_answers_may_be_something_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        threading.Thread(target=_say_hello, args=(other,), daemon=True).start()
        with pytest.raises(ServerUnreachable, match="not an mlx-panel server"):
            connect(f"http://127.0.0.1:{other.getsockname()[1]}")


def _say_hello(other: socket.socket) -> None:
    with other.accept()[0] as connection:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


# --- the process ends ----------------------------------------------------------------------------------------

SCRIPT = """
import sys, mlx_panel
server = mlx_panel.Server(models="fake", data_dir=sys.argv[1]).start()
print(server.url, flush=True)
{end}
"""


def script(folder: Path, end: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", SCRIPT.format(end=end), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.parametrize("end", ["", "raise SystemExit(0)"])
def test_no_worker_outlives_a_program_that_forgets_to_stop(folder: Path, end: str) -> None:
    process = script(folder, end)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert not errors
    assert is_free(out.strip())
    assert not workers(folder)


def test_no_worker_outlives_a_program_that_is_killed(folder: Path) -> None:
    process = script(folder, "import time; time.sleep(60)")
    assert process.stdout is not None
    process.stdout.readline()
    alive = workers(folder)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert alive
    assert not psutil.wait_procs(alive, timeout=8)[1]


# --- in a kernel ---------------------------------------------------------------------------------------------


def execute(notebook: nbformat.NotebookNode, **environment: str) -> nbformat.NotebookNode:
    """Run a notebook in a fresh kernel, from the top of the repository."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, "PYTHONPATH": str(ROOT)}.items():
            patch.setenv(name, value)
        client = nbclient.NotebookClient(
            notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
        )
        return client.execute()


def outputs(notebook: nbformat.NotebookNode) -> Iterator[tuple[str, str, str]]:
    """(the cell's first line, MIME type, text) of everything a notebook shows."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            first = cell.source.partition("\n")[0]
            yield from ((first, mime, str(data)) for mime, data in output.get("data", {}).items())
            if output.output_type == "stream":
                yield first, output.name, output.text


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """The quickstart, run with a tiny model. Afterwards none of its processes is left."""
    folder = tmp_path_factory.mktemp("quickstart")
    tiny_model(folder / "models" / "tiny")
    notebook = nbformat.read(QUICKSTART, as_version=4)
    done = execute(notebook, MLX_SERVER_DATA_DIR=str(folder), MLX_PANEL_MODEL="tiny")
    assert not workers(folder)
    assert (folder / "audit.duckdb").exists()
    return done


def test_the_quickstart_is_committed_without_outputs() -> None:
    notebook = nbformat.read(QUICKSTART, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_quickstart_answers(quickstart: nbformat.NotebookNode) -> None:
    said = dict.fromkeys(("from openai import OpenAI", "stream = client.chat.completions.create("), "")
    for first, kind, text in outputs(quickstart):
        assert kind != "stderr", text
        if kind == "stdout":
            said[first] += text
    assert all(text.strip() for text in said.values()), said


@pytest.mark.parametrize("cell", ["server.overview", "server.audit"])
def test_the_quickstart_shows_panels(quickstart: nbformat.NotebookNode, cell: str) -> None:
    shown = {mime: text for first, mime, text in outputs(quickstart) if first == cell}
    assert "application/vnd.holoviews_exec.v0+json" in shown
    assert "docs_json" in shown["text/html"]
    assert "ReactiveESM" in shown["text/html"]
    assert len(shown["text/html"]) < 400_000, "no library comes along with each panel"


def test_the_quickstart_needs_no_network(quickstart: nbformat.NotebookNode) -> None:
    scripts = 0
    for first, mime, text in outputs(quickstart):
        scripts += "Bokeh" in text and len(text) > 1_000_000
        assert not CDN.search(text), (first, mime, CDN.search(text))
        if mime == "text/html":
            assert not LOADED.search(text), (first, LOADED.search(text))
    assert scripts, "the scripts are in the notebook"


def notebook_of(*cells: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


def test_no_worker_outlives_a_kernel_that_forgets_to_stop(folder: Path) -> None:
    start = f"import mlx_panel\nserver = mlx_panel.Server('fake', data_dir={str(folder)!r}).start()"
    done = execute(notebook_of(start, "import panel as pn\nprint(pn.config.design)"))
    assert not workers(folder)
    assert ("import panel as pn", "stdout", "None\n") in list(outputs(done)), (
        "a guest leaves the look of others alone"
    )


def test_the_magic_shows_a_running_server(folder: Path) -> None:
    with Server(data_dir=folder) as server:
        done = execute(notebook_of("%load_ext mlx_panel", f"%mlx_panel {server.url}"))
        assert any("docs_json" in text for first, _, text in outputs(done) if first.startswith("%mlx_panel"))
        with pytest.raises(nbclient.exceptions.CellExecutionError, match="ServerUnreachable"):
            execute(notebook_of("%load_ext mlx_panel", f"%mlx_panel http://127.0.0.1:{free_port()}"))


# --- the package ---------------------------------------------------------------------------------------------


def test_the_public_names() -> None:
    assert {"Engine", "Server", "connect", "__version__"} <= set(dir(mlx_panel)) & set(mlx_panel.__all__)
    assert mlx_panel.Engine.__name__ == "Engine"
    with pytest.raises(AttributeError, match="nothing"):
        _ = mlx_panel.nothing


def test_importing_the_package_costs_nothing() -> None:
    code = "import time; t = time.perf_counter(); import mlx_panel, sys; print(time.perf_counter() - t, len(sys.modules))"
    times = [
        float(
            subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                check=True,
                cwd=ROOT,
                env=os.environ,
            ).stdout.split()[0]
        )
        for _ in range(3)
    ]
    assert min(times) < 0.05
