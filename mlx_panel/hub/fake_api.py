"""The fake hub's answers about models: search, information, files; and what all of its answers share."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from tornado.web import RequestHandler

from .fake_faults import Asked, Faults, Served
from .fake_repository import Content, Repository, entry, from_folder

TOKEN = "hf_fake"
USER = "somebody"
# What is told of one model alone (huggingface_hub pull request 3182).
NOT_LISTED = {"usedStorage", "baseModels", "childrenModelCount"}
SORTS = {"downloads", "likes", "lastModified", "createdAt"}


class State:
    """What the hub holds: its models, who it knows, what goes wrong and what left."""

    def __init__(self, repositories: Iterable[Repository] | Path, *, token: str = TOKEN, user: str = USER):
        found = from_folder(repositories) if isinstance(repositories, Path) else repositories
        self.repositories = {one.id: one for one in found}
        self.token, self.user = token, user
        self.accepted: set[str] = set()
        self.faults = Faults()
        self.served = Served()
        self.port = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url} with {len(self.repositories)} models>"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def content(self, sha256: str) -> Content | None:
        """Any file by its hash."""
        return next(
            (
                one
                for repository in self.repositories.values()
                for files in repository.commits.values()
                for one in files.values()
                if one.sha256 == sha256
            ),
            None,
        )


class Handler(RequestHandler):
    """What all answers share: the log, refusals on demand, and the hub's way to say no."""

    logged: ClassVar[bool] = True

    def initialize(self, hub: State) -> None:
        self.hub = hub

    def compute_etag(self) -> None:
        return None

    def prepare(self) -> None:
        if not self.logged:
            return
        headers = self.request.headers
        self.hub.served.requests.append(
            Asked(
                method=self.request.method or "", path=self.request.path, host=self.request.host,
                range=headers.get("Range", ""), if_range=headers.get("If-Range", ""), authorized="Authorization" in headers,
            )
        )  # fmt: skip
        if (refusal := self.hub.faults.refused(self.request.path)) is not None:
            if refusal.retry_after:
                self.set_header("Retry-After", str(refusal.retry_after))
            self.refuse(refusal.status, "", "Refused on demand")

    def refuse(self, status: int, code: str, message: str) -> None:
        """No, as the hub says it."""
        self.set_status(status)
        if code:
            self.set_header("X-Error-Code", code)
        self.set_header("X-Error-Message", message)
        self.json({"error": message})

    def json(self, value: Any) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(msgspec.json.encode(value))

    @property
    def known(self) -> bool:
        """Whether the request carries the token."""
        return self.request.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def repository(self, id: str, *, files: bool = False) -> Repository | None:
        """The repository, or None: then the refusal was sent. With `files` a gated one has to be accepted."""
        if "Authorization" in self.request.headers and not self.known:
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return None
        one = self.hub.repositories.get(id)
        if one is None or (one.private and not self.known):
            words = "Repository not found" if self.known else "Invalid username or password."
            self.refuse(404 if self.known else 401, "RepoNotFound", words)
            return None
        if files and one.gated and not (self.known and id in self.hub.accepted):
            words = f"Access to model {id} is restricted. You must have access to it and be authenticated to access it."
            self.refuse(403 if self.known else 401, "GatedRepo", words)
            return None
        return one

    def commit(self, repository: Repository, revision: str) -> str | None:
        """The commit, or None: then the refusal was sent."""
        commit = repository.at(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit


class WhoAmI(Handler):
    def get(self) -> None:
        if not self.known:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        token = {"displayName": "fake", "role": "read"}
        self.json(
            {"type": "user", "name": self.hub.user, "auth": {"type": "access_token", "accessToken": token}}
        )


class Search(Handler):
    """`search`, `author`, `filter` (repeated or with commas), `gated`, `sort`, `direction`, `limit`, `cursor`, `expand`."""

    def get(self) -> None:
        ask = self.get_query_argument
        found = [
            one.info(one.commit) for one in self.hub.repositories.values() if not one.private or self.known
        ]
        words, author, gated = ask("search", "").lower().split(), ask("author", ""), ask("gated", "")
        tags = {tag for text in self.get_query_arguments("filter") for tag in text.split(",") if tag}
        hits = [
            one
            for one in found
            if all(word in one["id"].lower() for word in words)
            and author in ("", one["author"])
            and tags
            <= {*one["tags"], one["pipeline_tag"], one["library_name"], one["config"].get("model_type")}
            and gated in ("", str(bool(one["gated"])).lower())
        ]
        if (
            refused := {*self.get_query_arguments("expand"), *self.get_query_arguments("expand[]")}
            & NOT_LISTED
        ):
            return self.refuse(400, "", f"Invalid expand: {min(refused)}")
        sort = ask("sort", "downloads")
        if sort not in SORTS:
            return self.refuse(400, "", f"Invalid sort: {sort}")
        hits.sort(key=lambda one: one[sort], reverse=ask("direction", "-1") == "-1")
        start, limit = int(ask("cursor", "0") or 0), min(1000, int(ask("limit", "1000")))
        if start + limit < len(hits):
            self._link(str(start + limit))
        self.json([self._shown(one) for one in hits[start : start + limit]])

    def _link(self, cursor: str) -> None:
        asked = [
            (name, text) for name in self.request.query_arguments for text in self.get_query_arguments(name)
        ]
        rest = urllib.parse.urlencode(
            [(name, text) for name, text in asked if name != "cursor"] + [("cursor", cursor)]
        )
        self.set_header("Link", f'<{self.hub.url}/api/models?{rest}>; rel="next"')

    def _shown(self, told: dict[str, Any]) -> dict[str, Any]:
        expand = {*self.get_query_arguments("expand"), *self.get_query_arguments("expand[]")}
        heavy = set() if self.get_query_argument("full", "") else {"siblings", "config", "safetensors"}
        return {
            name: value
            for name, value in told.items()
            if (name in expand | {"_id", "id", "modelId"} if expand else name not in heavy)
        }


class Info(Handler):
    def get(self, id: str, revision: str = "main") -> None:
        one = self.repository(id)
        commit = self.commit(one, revision) if one else None
        if one is not None and commit is not None:
            self.set_header("X-Repo-Commit", commit)
            self.json(one.info(commit, sizes=self.get_query_argument("blobs", "") in ("true", "1")))


class Tree(Handler):
    """The files of a commit, all of them where `recursive` is asked for."""

    def get(self, id: str, revision: str, folder: str = "") -> None:
        one = self.repository(id)
        commit = self.commit(one, revision) if one else None
        if one is None or commit is None:
            return
        deep = self.get_query_argument("recursive", "") in ("true", "True", "1")
        prefix = f"{folder.strip('/')}/" if folder else ""
        paths = [path for path in one.commits[commit] if path.startswith(prefix)]
        shown: dict[str, dict[str, Any]] = {}
        for path in paths:
            head, _, tail = path.removeprefix(prefix).partition("/")
            if tail:
                shown.setdefault(
                    prefix + head, {"type": "directory", "oid": commit, "size": 0, "path": prefix + head}
                )
            if deep or not tail:
                shown[path] = {"type": "file", "path": path, **entry(path, one.commits[commit][path])}
        self.json(list(shown.values()))
