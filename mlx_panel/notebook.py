"""mlx-panel in a notebook: a server in the kernel's process, or a connection to one that runs anywhere.

server = mlx_panel.Server(models=["SmolLM2-135M-Instruct"]).start()
server.overview            # in a later cell: what a page needs is sent by the first one
server.stop()
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import panel as pn

from .dashboard.aliases import Aliases
from .dashboard.analytics import Analytics
from .dashboard.analytics_charts import Charts
from .dashboard.audit_settings import AuditStorage
from .dashboard.benchmarks import Benchmarks
from .dashboard.cache import PrefixCache
from .dashboard.downloads import Downloads
from .dashboard.engine import EngineForm
from .dashboard.library import Library
from .dashboard.live import Live
from .dashboard.models import Models
from .dashboard.overview import Overview
from .dashboard.pool import Pool
from .dashboard.pool_settings import PoolForm
from .dashboard.presets import Presets
from .dashboard.proof import PrivacyProof
from .dashboard.remote import Remote
from .dashboard.request import RequestView
from .dashboard.sql import Sql
from .dashboard.system import SystemCard
from .dashboard.timeouts import Timeouts
from .errors import Conflict
from .inquiry import Proof
from .notebook_audit import AuditLog
from .prove.command import prove
from .settings import DEFAULT_PORT, Settings

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .host import Host

DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
LAST_MOMENT = 3.0  # seconds; Jupyter gives a kernel five to end
CARD = """<div style="font-family:system-ui,sans-serif"><b>mlx-panel</b> {0}</div>"""


class Panels:
    """A server's panels. Each access makes a new one, so the same panel may stand in several cells."""

    @property
    def source(self) -> Remote:
        """What the panels look at, and what loads models and asks the audit log from code."""
        raise NotImplementedError

    @property
    def overview(self) -> Overview:
        """Speed, requests, time to first token and memory, live."""
        return Overview(self.source)

    @property
    def models(self) -> Models:
        """The models and their Load and Unload buttons."""
        return Models(self.source)

    @property
    def pool(self) -> Pool:
        """The memory that models share, and a row a model: load, unload, pin."""
        return Pool(self.source)

    @property
    def pool_settings(self) -> PoolForm:
        """The pool's settings, to edit."""
        return PoolForm(self.source)

    @property
    def presets(self) -> Presets:
        """The presets, to start, stop and edit."""
        return Presets(self.source)

    @property
    def aliases(self) -> Aliases:
        """The rules for names nobody has, to edit and to try."""
        return Aliases(self.source)

    @property
    def library(self) -> Library:
        """The models of the server's machine and of the hub: search, fetch, check, convert, delete."""
        return Library(self.source)

    @property
    def downloads(self) -> Downloads:
        """What is on its way from the hub."""
        return Downloads(self.source)

    @property
    def audit(self) -> AuditLog:
        """The last requests, page by page, and questions to the audit log: `list`, `stats`, `chart`, `sql`, `export`."""
        return AuditLog(self.source.url, self.source.key)

    @property
    def analytics(self) -> Analytics:
        """The audit log as charts, all by one filter."""
        return Analytics(self.source)

    @property
    def audit_settings(self) -> AuditStorage:
        """What the audit log's file takes, and its settings, to edit."""
        return AuditStorage(self.source)

    @property
    def charts(self) -> Charts:
        """The same charts one by one: `charts.latency`."""
        return Charts(self.source)

    def request(self, id: int | str) -> RequestView:
        """Where the time of one request went: by its number in the audit log, or by its request id."""
        return RequestView(self.source, id)

    @property
    def sql(self) -> Sql:
        """SQL over the audit log: an editor, and results as a table and as a chart."""
        return Sql(self.source)

    @property
    def cache(self) -> PrefixCache:
        """The prefix cache: how full it is, what it saved, and why a prompt was not found."""
        return PrefixCache(self.source)

    @property
    def engine(self) -> EngineForm:
        """The engine's settings, to edit, for every model or for one."""
        return EngineForm(self.source)

    @property
    def benchmarks(self) -> Benchmarks:
        """A sweep of this server, and those stored, plotted and compared."""
        return Benchmarks(self.source)

    @property
    def privacy(self) -> PrivacyProof:
        """The privacy proof: run it, follow it, read its report."""
        return PrivacyProof(self.source)

    def prove(self) -> Proof:
        """Run a privacy proof and return when it is over, after a minute or so; interrupted, it ends.

        `state` "clean" says that no canary was found; `mlx_panel.prove.report.markdown` makes a report of it.
        """
        return prove(self.source.url)

    @property
    def timeouts(self) -> Timeouts:
        """The limits of the endpoints, to edit."""
        return Timeouts(self.source)

    @property
    def system(self) -> SystemCard:
        """What the server runs on."""
        return SystemCard(self.source)

    @property
    def dashboard(self) -> pn.Column:
        """All of it."""
        tabs = pn.Tabs(
            ("Requests", self.audit),
            ("Prefix cache", self.cache),
            ("Engine", self.engine),
            ("Pool", self.pool_settings),
            ("Audit log", self.audit_settings),
            ("Timeouts", self.timeouts),
            ("System", self.system),
            sizing_mode="stretch_width",
        )
        return pn.Column(Live(self.source), tabs, sizing_mode="stretch_width")


class Connection(Panels):
    """A server that runs somewhere. Whether it still does is seen when it is asked."""

    def __init__(self, url: str = DEFAULT_URL, key: str | None = None):
        self._source = Remote(url, key)
        prepare()

    def __repr__(self) -> str:
        return f"<Connection {self.url}>"

    def _repr_html_(self) -> str:
        return CARD.format(f"at {_link(self.url)}")

    @property
    def source(self) -> Remote:
        return self._source

    @property
    def url(self) -> str:
        return self._source.url

    @property
    def base_url(self) -> str:
        """Where an OpenAI client finds the API."""
        return f"{self.url}/v1"


def connect(url: str = DEFAULT_URL, key: str | None = None) -> Connection:
    """A connection to a running server, with its panels as attributes.

    `key` goes along as a bearer token. Raises ServerUnreachable when no server answers there.
    """
    connection = Connection(url, key)
    connection.source.check()
    return connection


class Server(Panels):
    """A server of one's own in this process: `start()` it, `stop()` it, or use it as a context manager.

    It runs in a thread with its own loop, so a busy cell does not keep it from answering; each model runs in a
    process of its own, which ends with the server and with the kernel. `models` are loaded at start. `port` 0 takes a
    free port and keeps it over restarts. `data_dir` holds models, audit log and settings; one server at a time may
    use it. `settings` are those of `Settings`, e.g. `max_batch=8`.
    """

    def __init__(
        self,
        models: str | Sequence[str] | None = None,
        port: int = 0,
        data_dir: str | os.PathLike[str] | None = None,
        **settings: Any,
    ):
        names = [models] if isinstance(models, str) else list(models or [])
        self._values = {"host": "127.0.0.1", **settings, "models": names, "port": port}
        self._folder = None if data_dir is None else Path(data_dir).expanduser().absolute()
        self._host: Host | None = None
        self._source: Remote | None = None
        prepare()

    def __repr__(self) -> str:
        return f"<Server {f'running at {self.url}' if self.running else 'stopped'}>"

    def _repr_html_(self) -> str:
        return CARD.format(f"runs at {_link(self.url)}" if self.running else "is stopped")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._host is not None and self._host.alive

    @property
    def source(self) -> Remote:
        if self._source is None:
            raise Conflict("The server has not been started: call start().")
        return self._source

    @property
    def url(self) -> str:
        """Where the dashboard is."""
        return self.source.url

    @property
    def base_url(self) -> str:
        """Where an OpenAI client finds the API."""
        return f"{self.url}/v1"

    def start(self) -> Self:
        """Start the server and return when its models are ready. Does nothing where it runs already.

        Raises the reason if it cannot start: AuditLocked where another server uses the data folder, SettingsError,
        ModelNotFound, ModelLoadFailed.
        """
        if self.running:
            return self
        host = _host(self._settings())
        host.start()
        self._host = host
        self._found(host)
        atexit.register(self._at_exit)
        return self

    def stop(self) -> None:
        """Let running requests finish, for `drain_timeout_seconds` at most, then end the server and its models.

        Its port is free and its audit log written when this returns. May be repeated; interrupted and called again it
        goes on.
        """
        if self._host is not None:
            self._host.stop()
            self._host = None
            atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        if self._host is not None:
            self._host.quit(LAST_MOMENT)

    def _settings(self) -> Settings:
        folder = {} if self._folder is None else {"MLX_SERVER_DATA_DIR": str(self._folder)}
        return Settings.load(self._values, {**os.environ, **folder})

    def _found(self, host: Host) -> None:
        """Keep the port, so that what looks at this server finds it again after a restart."""
        address = f"[{host.settings.host}]" if ":" in host.settings.host else host.settings.host
        self._values["port"] = host.port
        if self._source is None:
            self._source = Remote(f"http://{address}:{host.port}")


def prepare() -> None:
    """Send the page of a notebook what panels need, without any network. Elsewhere nothing happens.

    A panel can be shown from the next cell on.
    """
    if _kernel():
        pn.extension(inline=True)


def load_magic(shell: InteractiveShell) -> None:
    """Give a notebook the line `%mlx_panel [url]`, which shows the overview of a running server."""
    prepare()
    shell.magics_manager.register_function(_magic, magic_name="mlx_panel")


def _magic(line: str) -> Overview:
    """The overview of the server at a URL, by default this machine's own."""
    source = Remote(line.strip() or DEFAULT_URL)
    source.check()
    return Overview(source)


def _kernel() -> bool:
    from IPython import (
        get_ipython,
    )  # a fifth of a second, and a server elsewhere than in a notebook has no use for it

    return hasattr(get_ipython(), "kernel")


def _host(settings: Settings) -> Host:
    """The server's half, imported late: a connection has no use for it.

    The dashboard's page brings panel-material-ui, which makes itself the design of all that Panel shows. That is not
    for a guest in somebody's kernel to change.
    """
    design = pn.config.design
    from .host import Host

    pn.config.design = design
    return Host(settings)


def _link(url: str) -> str:
    return f'<a href="{url}" target="_blank" rel="noopener">{url}</a>'
