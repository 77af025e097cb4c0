"""What can go wrong between a hub and its client, on demand; and the bytes that left, so that one can count them."""

from __future__ import annotations

import msgspec


class Corruption(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The bytes from `start` to `stop` of a file whose path ends in `path` are wrong in the next `times` answers."""

    path: str = ""
    start: int = 0
    stop: int = 1
    times: int = 1


class Refusal(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The next `times` requests for a path that holds `path` are answered with `status` alone."""

    status: int = 503
    times: int = 1
    path: str = ""
    retry_after: int = 0


class Faults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong from now on. All of it can be set at run time, 0 and None are: nothing.

    `drop_every` bytes of each file the connection closes (at most `drop_times` times, -1 is always); at the byte
    `stall_at` of each file nothing more comes; `bytes_per_second` limits each connection; the next `ignore_range`
    requests for a part get the whole; the next `wrong_length_times` answers announce and end `wrong_length` bytes too
    far (negative: too early). With `cdn` large files are answered with a redirect to another host.
    """

    drop_every: int = 0
    drop_times: int = -1
    stall_at: int = 0
    bytes_per_second: float = 0.0
    corrupt: Corruption | None = None
    refuse: Refusal | None = None
    ignore_range: int = 0
    wrong_length: int = 0
    wrong_length_times: int = 1
    cdn: bool = False

    def refused(self, path: str) -> Refusal | None:
        """The refusal that this request meets, which is then one fewer."""
        one = self.refuse
        if one is None or one.times <= 0 or one.path not in path:
            return None
        one.times -= 1
        return one

    def whole(self) -> bool:
        """Whether this request for a part is answered with the whole."""
        ignored = self.ignore_range > 0
        self.ignore_range -= ignored
        return ignored

    def lengthened(self) -> int:
        """By how many bytes this answer's length is wrong."""
        if not self.wrong_length or self.wrong_length_times <= 0:
            return 0
        self.wrong_length_times -= 1
        return self.wrong_length

    def end(self, start: int, stop: int) -> int:
        """Where an answer from `start` to `stop` breaks off."""
        if not self.drop_every or not self.drop_times:
            return stop
        return min(stop, (start // self.drop_every + 1) * self.drop_every)

    def spoils(self, path: str, start: int, stop: int) -> Corruption | None:
        """The corruption this answer carries, which is then one fewer."""
        one = self.corrupt
        hit = (
            one is not None
            and one.times > 0
            and path.endswith(one.path)
            and start < one.stop
            and one.start < stop
        )
        if one is None or not hit:
            return None
        one.times -= 1
        return one


def spoilt(data: bytes, start: int, wrong: Corruption | None) -> bytes:
    """A piece that begins at `start` of its file, with its wrong bytes."""
    if wrong is None:
        return data
    first, last = max(wrong.start - start, 0), min(wrong.stop - start, len(data))
    if first >= last:
        return data
    return data[:first] + bytes(byte ^ 0xFF for byte in data[first:last]) + data[last:]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it came. `authorized` says that it carried a token."""

    method: str
    path: str
    host: str = ""
    range: str = ""
    if_range: str = ""
    authorized: bool = False


class Served(msgspec.Struct, kw_only=True):
    """What left: for each file, `id:path`, the byte ranges `[start, stop)` in the order in which they were asked for."""

    files: dict[str, list[list[int]]] = {}
    requests: list[Asked] = []
    total: int = 0

    def begin(self, name: str, start: int) -> list[int]:
        """A range that is to grow."""
        grown = [start, start]
        self.files.setdefault(name, []).append(grown)
        return grown
