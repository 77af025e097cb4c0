"""The sockets that processes hold open, and whether one of them leads out of this machine."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import Any

import psutil

from ..inquiry import Opened

UNNAMED = "a pair without a name"


def family(pid: int) -> dict[int, str]:
    """This process and those below it, each with what it is. Blocks for some milliseconds."""
    found = {pid: "server"}
    for child in psutil.Process(pid).children(recursive=True):
        try:
            found[child.pid] = _role(child.cmdline())
        except psutil.Error:
            continue
    return found


def _role(command: list[str]) -> str:
    words = " ".join(command)
    if "mlx_panel.prove" in words:
        return "this proof"
    name = next((word.removeprefix("--name=") for word in command if word.startswith("--name=")), "")
    if "mlx_panel.worker" in words:
        return f"worker of {name}" if name else "worker"
    return "helper process"


def look(processes: Mapping[int, str], folders: Iterable[str]) -> set[Opened]:
    """What these processes hold open now; `folders` are ours, so Unix sockets in them are. Blocks for milliseconds.

    A connection is told by its far end alone, without the port of whoever came, so a thousand requests are one line.
    """
    seen = [(role, one) for pid, role in processes.items() for one in _connections(pid)]
    ours = {tuple(one.laddr) for _, one in seen if one.family != socket.AF_UNIX and one.laddr}
    roots = tuple(folders)
    return {_opened(role, one, ours, roots) for role, one in seen}


def _connections(pid: int) -> list[Any]:
    try:
        return psutil.Process(pid).net_connections("all")
    except psutil.Error:
        return []


def _opened(role: str, one: Any, ours: set[tuple], roots: tuple[str, ...]) -> Opened:
    if one.family == getattr(socket, "AF_UNIX", None):
        return _unix(role, one, roots)
    kind = "" if one.type == socket.SOCK_STREAM else "UDP "
    listening = one.status == psutil.CONN_LISTEN
    here = f"{kind}{_address(one.laddr)}" if listening or not one.raddr else f"{kind}{one.laddr.ip}"
    if not one.raddr:
        inside = not one.laddr or _loopback(one.laddr.ip)
        return Opened(
            role, here, "", "own" if inside else "outside", "" if inside else "other machines can reach it"
        )
    if tuple(one.raddr) in ours:
        return Opened(role, here, one.raddr.ip, "own")
    if _loopback(one.raddr.ip):
        return Opened(role, here, one.raddr.ip, "this machine")
    return Opened(role, here, _address(one.raddr), "outside")


def _unix(role: str, one: Any, roots: tuple[str, ...]) -> Opened:
    path = str(one.laddr or one.raddr or "")
    own = not path or path.startswith(roots)
    return Opened(role, f"Unix socket {path or UNNAMED}", "", "own" if own else "this machine")


def _address(place: Any) -> str:
    return f"[{place.ip}]:{place.port}" if ":" in place.ip else f"{place.ip}:{place.port}"


def _loopback(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback
