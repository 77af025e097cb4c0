"""What the server tells the process that sends and searches for it, and what comes back: lines of JSON over pipes.

Canaries go over a pipe only: never on a command line, into the environment, or into a file.
"""

from __future__ import annotations

import msgspec

from .canary import Canary


class Door(msgspec.Struct, frozen=True):
    """A route of the server, as its audit rows name it, with the methods it takes."""

    route: str
    verbs: tuple[str, ...]


class SendOrder(msgspec.Struct, frozen=True, tag="send"):
    """Requests to make: to every door of the server at `url`, and to the models of these names ("" for none)."""

    url: str
    doors: tuple[Door, ...]
    canaries: tuple[Canary, ...]
    run: str
    model: str = ""
    embedder: str = ""
    pages: tuple[str, ...] = ()


class Spot(msgspec.Struct, frozen=True):
    """Files and folders that are searched together. Below folders, `but` is left out, and so is what is older than the
    canaries. `most` bytes are read. In `plant` a mark is put for the time of the search. Where content is `expected`,
    files that hold a canary are deleted once they are counted.
    """

    name: str
    paths: tuple[str, ...]
    but: tuple[str, ...] = ()
    expected: bool = False
    plant: str = ""
    most: int = 0
    note: str = ""


class SearchOrder(msgspec.Struct, frozen=True, tag="search"):
    """Where to look for which canaries, made at `since` (Unix seconds). `control` is planted. `tokenizer` is the file of
    the model's, "" for none. `processes` are looked at for their command lines and environments."""

    canaries: tuple[Canary, ...]
    control: Canary
    since: float
    spots: tuple[Spot, ...]
    processes: tuple[int, ...] = ()
    tokenizer: str = ""


class Answered(msgspec.Struct, frozen=True, tag="answered"):
    """A request was made: the status that came back, 0 for none. `done` of `total` of the work is."""

    group: str
    route: str
    method: str
    status: int
    done: int
    total: int


class Searched(msgspec.Struct, frozen=True, tag="searched"):
    """A spot was searched: as `inquiry.Place` says it. `files` in `where` hold canaries."""

    name: str
    files: int
    bytes: int
    found: int
    older: int = 0
    skipped: int = 0
    where: tuple[str, ...] = ()
    encodings: tuple[str, ...] = ()
    planted: int = 0
    controls: int = 0


Order = SendOrder | SearchOrder
News = Answered | Searched

encode = msgspec.json.Encoder().encode
order = msgspec.json.Decoder(Order).decode
news = msgspec.json.Decoder(News).decode
