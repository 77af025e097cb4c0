"""A server's snapshots over HTTP: one connection and one thread, however many watch."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import httpx
import msgspec

from ..snapshot import Sample, Snapshot
from .source import Unsubscribe, Watcher, sample, weak

log = logging.getLogger(__name__)
PATIENCE = httpx.Timeout(5, read=15)  # a snapshot comes each second; a loop that is busy may be late
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
KEPT = 600


class News(msgspec.Struct, frozen=True):
    """One event of `/api/live`; without `now` it says that the stream is over."""

    now: Snapshot | None = None
    history: list[Sample] | None = None


class Feed:
    """Reads `/api/live` while anybody watches, and comes back by itself when the server does.

    `options` are those of an `httpx.Client`. The thread starts with the first watcher and ends with the last.
    """

    def __init__(self, options: dict[str, Any]):
        self._options = options
        self._watchers: dict[object, Callable[[], Watcher | None]] = {}
        self._left = threading.Condition()
        self._thread: threading.Thread | None = None
        self._now: Snapshot | None = None
        self._history: deque[Sample] = deque(maxlen=KEPT)

    def __repr__(self) -> str:
        state = "idle" if self._thread is None else "looking" if self._now is None else "live"
        return f"<Feed {state}, {len(self._watchers)} watchers>"

    def subscribe(self, watcher: Watcher) -> Unsubscribe:
        """See `Source.subscribe`. Where a snapshot is known the first call comes at once, from this thread."""
        key = object()
        with self._left:
            self._watchers[key] = weak(watcher)
            now, history = self._now, list(self._history)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mlx-panel-feed", daemon=True)
                self._thread.start()
        if now is not None:
            watcher(now, history)
        return partial(self._unsubscribe, key)

    def _unsubscribe(self, key: object) -> None:
        with self._left:
            self._watchers.pop(key, None)
            self._left.notify_all()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while self._wanted():
            pause = FIRST_PAUSE if self._read() else min(pause * 2, LONGEST_PAUSE)
            self._rest(pause)

    def _rest(self, pause: float) -> None:
        with self._left:
            if self._thread is threading.current_thread():
                self._now = None
                self._left.wait_for(lambda: not self._watchers, pause)

    def _wanted(self) -> bool:
        """Whether the thread that asks is to go on. Once nobody watches it is not, whoever subscribes meanwhile."""
        with self._left:
            self._watchers = {key: get for key, get in self._watchers.items() if get() is not None}
            if not self._watchers:
                self._thread = self._now = None
            return self._thread is threading.current_thread()

    def _read(self) -> bool:
        """Hand on snapshots until the connection ends or nobody watches. Says whether any came."""
        came = False
        try:
            with contextlib.closing(self._events()) as events:
                for news in events:
                    came = True
                    self._tell(news)
                    if not self._wanted():
                        break
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            log.debug("the feed of %s is interrupted: %s", self._options["base_url"], type(error).__name__)
        return came

    def _events(self) -> Generator[News, None, None]:
        with (
            httpx.Client(**self._options, timeout=PATIENCE) as client,
            client.stream("GET", "/api/live") as response,
        ):
            response.raise_for_status()
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield msgspec.json.decode(line.removeprefix("data:"), type=News)

    def _tell(self, news: News) -> None:
        if news.now is None:
            return
        with self._left:
            self._now = news.now
            if news.history is not None:
                self._history = deque(news.history, KEPT)
            self._history.append(sample(news.now))
            watchers = list(self._watchers.items())
        for key, get in watchers:
            self._call(key, get(), news.now, news.history)

    def _call(
        self, key: object, watcher: Watcher | None, now: Snapshot, history: list[Sample] | None
    ) -> None:
        try:
            if watcher is not None:
                watcher(now, history)
        except Exception:  # the thread serves the others too
            log.exception("a watcher failed and is told nothing more")
            self._unsubscribe(key)
