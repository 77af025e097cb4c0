"""The hub as this server sees it: what is there, what one model is, which files it has, and the token that opens it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from ..errors import HubModelNotFound, HubRefused, HubUnavailable, Unavailable
from ..library import HubDetails, HubFile, HubPage, HubQuery, HubState, LibraryModel, Verdict
from . import details, hits
from .capabilities import CapabilityReader
from .client import HubClient, gated
from .disk import hub_cache
from .search import Cursor, Needed, Searcher, check, keyed
from .token import TRUE, Token

ENDPOINT = "https://huggingface.co"
OFFLINE = "This server is offline (hub_offline or HF_HUB_OFFLINE): it does not ask the hub."


def hub_endpoint(environment: Mapping[str, str] = os.environ) -> str:
    """The hub's address: `HF_ENDPOINT`, else Hugging Face's own."""
    return (environment.get("HF_ENDPOINT", "").strip() or ENDPOINT).rstrip("/")


def told_offline(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `HF_HUB_OFFLINE` says that the hub is not to be asked."""
    return environment.get("HF_HUB_OFFLINE", "").strip().lower() in TRUE


async def _nothing() -> Sequence[LibraryModel]:
    return ()


class Hub:
    """The hub at `endpoint`, asked with `token` unless `offline` says no.

    `local` are this machine's models, which stand in where the hub cannot be asked; `needed` is the memory a model of a
    config and so many bytes of weights takes; `verdict` whether that fits. `pause` is the client's (`HubClient`).
    """

    def __init__(
        self,
        endpoint: str,
        token: Token,
        offline: Callable[[], bool],
        *,
        local: Callable[[], Awaitable[Sequence[LibraryModel]]] = _nothing,
        needed: Needed = lambda config, weights: weights,
        verdict: Callable[[int], Verdict] = lambda needed: "unknown",
        cache: Path | None = None,
        pause: float = 0.5,
    ):
        self.endpoint = endpoint.rstrip("/")
        self.token = token
        self._offline, self._local, self._needed, self._verdict = offline, local, needed, verdict
        self._cache = cache or hub_cache()
        self._client = HubClient(self.endpoint, self.headers, pause=pause)
        self._searcher = Searcher(self._client, needed, verdict)
        self._reader = CapabilityReader()

    def __repr__(self) -> str:
        return f"<Hub {self.endpoint} {'offline' if self.offline else 'online'}, {self.token!r}>"

    async def close(self) -> None:
        """Close what connections there are."""
        await self._client.close()

    @property
    def connected(self) -> bool:
        """Whether there may be connections to the hub."""
        return self._client.connected

    @property
    def offline(self) -> bool:
        """Whether the hub is not to be asked."""
        return self._offline()

    def headers(self) -> dict[str, str]:
        """What a request to the hub carries. Raises HubRefused where a stored token is lost."""
        token = self.token.value()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def demand(self) -> None:
        """Raises HubUnavailable where the hub is not to be asked."""
        if self.offline:
            raise HubUnavailable(OFFLINE)

    # --- models ----------------------------------------------------------------------------------------------

    async def search(self, query: HubQuery) -> HubPage:
        """Models for MLX that match; those of this machine, marked `offline`, where the hub cannot be asked.

        A cursor goes on where its page ended, on the hub or here; that of the hub's raises HubUnavailable once it cannot
        be asked any more. Raises InvalidParameter, and HubRefused for a token that does not hold.
        """
        cursor = check(query)
        if cursor is not None and cursor.local:
            return await self._here(query, cursor, OFFLINE)
        try:
            self.demand()
            local = {model.id for model in await self._local()}
            return await self._searcher.page(query, cursor, local)
        except HubUnavailable as error:
            if cursor is not None:
                raise
            return await self._here(query, None, str(error))

    async def _here(self, query: HubQuery, cursor: Cursor | None, reason: str) -> HubPage:
        models = [hits.local_hit(model) for model in await self._local()]
        found = [model for model in models if hits.here(model, query) and hits.fits(model, query)]
        page = keyed(found, query, cursor, local=True)
        return msgspec.structs.replace(page, offline=True, reason=reason)

    async def details(self, id: str, revision: str = "main") -> HubDetails:
        """One model with its files, config and README; that of this machine where the hub cannot be asked.

        Raises InvalidParameter, HubModelNotFound, HubRefused, HubUnavailable.
        """
        details.check_name(id)
        details.check_revision(revision)
        try:
            self.demand()
            return await self._details(id, revision)
        except HubUnavailable as error:
            own = next((model for model in await self._local() if model.id == id), None)
            if own is None:
                raise
            found = await asyncio.to_thread(details.on_disk, own)
            return await self._placed(found, str(error))

    async def _details(self, id: str, revision: str) -> HubDetails:
        raw = await self._info(id, revision)
        commit, names = raw.get("sha"), {file.path for file in details.files_of(raw)}
        config, readme = {}, ""
        refused = ""
        try:
            if "config.json" in names:
                config = _object(await self._file(id, commit, "config.json", details.CONFIG_LIMIT))
            if details.README in names:
                readme = await self._file(id, commit, details.README, details.README_LIMIT)
        except HubRefused:
            # Everybody may know of a gated model; its files are for those who accepted its terms.
            refused = gated(self.endpoint, id, bool(self.headers()))
        found = await asyncio.to_thread(details.on_hub, raw, config, readme, self._reader)
        needed = self._needed(found.config, found.model.bytes) if found.model.bytes else 0
        verdict = self._verdict(needed) if needed else "unknown"
        local = any(model.id == id for model in await self._local())
        model = msgspec.structs.replace(found.model, verdict=verdict, local=local)
        return await self._placed(msgspec.structs.replace(found, model=model, needed=needed), refused)

    async def _placed(self, found: HubDetails, reason: str) -> HubDetails:
        free = await asyncio.to_thread(self._free)
        return msgspec.structs.replace(found, free_disk=free, reason=reason or found.reason)

    async def files(self, id: str, revision: str = "main") -> tuple[str, tuple[HubFile, ...]]:
        """The commit a revision names, and its files with their hashes. Raises like `details`; asks nothing offline."""
        details.check_name(id)
        details.check_revision(revision)
        self.demand()
        raw = await self._info(id, revision)
        if not isinstance(raw.get("sha"), str):
            raise HubUnavailable(f"The hub at {self.endpoint} does not say which commit {id} is at.")
        return raw["sha"], details.files_of(raw)

    async def _info(self, id: str, revision: str) -> dict[str, Any]:
        raw, _ = await self._client.json(
            f"/api/models/{id}/revision/{quote(revision, safe='')}", {"blobs": "true"}, id=id
        )
        if not isinstance(raw, dict):
            raise HubUnavailable(f"What answers at {self.endpoint} is not a model hub.")
        return raw

    async def _file(self, id: str, commit: Any, path: str, limit: int) -> str:
        try:
            return await self._client.text(f"/{id}/resolve/{commit}/{path}", limit=limit, id=id)
        except HubModelNotFound:
            return ""  # it was moved since the list was made

    # --- the token -------------------------------------------------------------------------------------------

    async def state(self) -> HubState:
        """How this machine stands to the hub; the token itself is not in it."""
        token = self.token
        return HubState(
            endpoint=self.endpoint, offline=self.offline, token=bool(token.source), source=token.source, user=token.user,
            error=token.lost, cache=str(self._cache), free_disk=await asyncio.to_thread(self._free),
        )  # fmt: skip

    async def set_token(self, text: str) -> None:
        """Keep a token, encrypted. Raises InvalidParameter, and Unavailable for the disk."""
        await self._change(self.token.set, text)

    async def clear_token(self) -> None:
        """Forget the token kept here; one of the environment holds again. Raises Unavailable for the disk."""
        await self._change(self.token.clear)

    async def test(self) -> str:
        """Whom the token belongs to, asked of the hub and remembered. Raises HubRefused, HubUnavailable."""
        self.demand()
        if not self.headers():
            raise HubRefused("There is no hub token to test. The hub shows yours at /settings/tokens.")
        raw, _ = await self._client.json("/api/whoami-v2")
        name = hits.table(raw).get("name")
        if not isinstance(name, str):
            raise HubUnavailable(f"What answers at {self.endpoint} is not a model hub.")
        await self._change(self.token.keep_user, name)
        return name

    async def _change(self, change: Callable[..., None], *given: str) -> None:
        self._searcher.forget()  # another token sees other models
        try:
            await asyncio.to_thread(change, *given)
        except OSError as error:
            raise Unavailable(
                f"The token could not be written to the data folder ({error.strerror}); nothing was changed."
            ) from error

    def _free(self) -> int:
        """Bytes free where the cache is or will be. Blocks."""
        place = next(path for path in (self._cache, *self._cache.absolute().parents) if path.exists())
        return shutil.disk_usage(place).free


def _object(text: str) -> dict[str, Any]:
    try:
        return hits.table(msgspec.json.decode(text))
    except (msgspec.DecodeError, RecursionError):
        return {}
