"""A whole server on a loop in a thread of its own, for programs that have other things to do: a notebook kernel."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

from bokeh.server.server import Server as BokehServer
from tornado.ioloop import IOLoop

from .app import Runtime
from .errors import AuditLocked, InternalError, MlxPanelError, SettingsError
from .http.routes import routes
from .serve import applications, check_address, settle
from .settings import Settings


class Host:
    """A Runtime with its API and dashboard. A host lives once: `start()`, then `stop()`, each from any other thread."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.port = settings.port
        self._thread = threading.Thread(target=self._run, name="mlx-panel", daemon=True)
        self._loop = asyncio.new_event_loop()
        self._leave = asyncio.Event()
        self._settled = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._error: MlxPanelError | None = None
        self._runtime: Runtime | None = None

    def __repr__(self) -> str:
        return f"<Host {self.settings.folder} {'alive' if self.alive else 'ended'}>"

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        """Serve, and return when every model named in the settings is ready.

        Raises the reason if that is not to be: AuditLocked, SettingsError, ModelNotFound, ModelLoadFailed.
        """
        self._thread.start()
        try:
            self._settled.wait()
        finally:
            if not self._settled.is_set():  # an impatient Ctrl-C
                self.stop(drain=False)
        if self._error is not None:
            self._thread.join()
            raise self._error

    def stop(self, *, drain: bool = True) -> None:
        """End the server and its workers; with `drain` running requests may finish first. May be repeated.

        Blocks until it is done.
        """
        self._tell(self._end, drain)
        self._thread.join()

    def quit(self, timeout: float) -> None:
        """Stop at the interpreter's end, within `timeout` seconds; whatever takes longer dies with the process."""
        self._tell(self._loop.set_default_executor, Inline())
        self._tell(self._end, False)
        self._thread.join(timeout)
        if self.alive and self._runtime is not None:
            self._runtime.pool.kill()

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(call, *arguments)

    def _end(self, drain: bool) -> None:
        self._leave.set()
        if self._task is not None and not (self._settled.is_set() and drain):
            self._task.cancel()

    # --- in the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._error = InternalError("The server could not start; its traceback says where.")
        try:
            self._task = self._loop.create_task(self._live())
            self._loop.run_until_complete(self._task)
        except MlxPanelError as error:
            self._error = error
        except asyncio.CancelledError:
            self._error = InternalError("The start was stopped.")
        finally:
            self._close()
            self._settled.set()

    def _close(self) -> None:
        """Close the loop as `asyncio.run` does, but for its executor: that would wait in a thread none may start at the end."""
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _live(self) -> None:
        with _hold(self.settings.folder):
            await self._serve()

    async def _serve(self) -> None:
        self._runtime = runtime = Runtime(self.settings)
        server: BokehServer | None = None
        try:
            await asyncio.to_thread(runtime.open)
            server = self._listen(runtime)
            await self._begin(server, runtime)
            await self._leave.wait()
            await runtime.drain()
        finally:
            self._task = None  # nothing cuts short what follows
            await _part(server, runtime)

    def _listen(self, runtime: Runtime) -> BokehServer:
        async def find() -> Runtime:
            return runtime

        check_address(self.settings)
        try:
            _try_port(self.settings)
            server = BokehServer(
                applications(runtime), io_loop=IOLoop.current(), port=self.settings.port,
                address=self.settings.host, extra_patterns=routes(find),
            )  # fmt: skip
        except OSError as error:
            raise SettingsError(_refused(self.settings, error), field="port") from error
        settle(server, find)
        return server

    async def _begin(self, server: BokehServer, runtime: Runtime) -> None:
        server.start()
        host = self.settings.host
        runtime.url = f"http://{f'[{host}]' if ':' in host else host}:{server.port}"
        await runtime.start()
        await asyncio.gather(*(runtime.pool.load(model) for model in self.settings.models))
        self.port = server.port or 0
        self._error = None
        self._settled.set()


class Inline(ThreadPoolExecutor):
    """Does at once what it is given: when the interpreter ends no other executor takes work."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*arguments, **named))
        return future


async def _part(server: BokehServer | None, runtime: Runtime) -> None:
    """Take no more requests, end those that run with their last words, then hang up."""
    if server is None:
        return await runtime.stop()
    pages = list(server._tornado._clients)  # Bokeh forgets them when it stops
    server.stop()
    await runtime.stop()
    for page in pages:
        page._socket.close()
    await server._http.close_all_connections()


def _hold(folder: Path) -> TextIO:
    """Keep a data folder from another host of this process while the file is open: DuckDB keeps other processes away."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (folder / "host.lock").open("w")
    except OSError as error:
        raise SettingsError(f"The data folder {folder} cannot be used: {error.strerror}.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise AuditLocked(f"Another server of this process uses {folder}.") from error
    return file


def _try_port(settings: Settings) -> None:
    """Raise OSError if the port cannot be had. Tornado raises it too, but leaves a socket open."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    socket.create_server((settings.host, settings.port), family=family).close()


def _refused(settings: Settings, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {settings.port} is in use. Port 0 takes a free one."
    return f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}."
