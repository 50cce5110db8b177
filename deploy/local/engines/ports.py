"""The ports of one local stack."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from deploy.local.errors import PortInUse

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the engines listen, all on 127.0.0.1."""

    postgres: int = 8890
    clickhouse: int = 8891
    kafka: int = 8892
    kafka_controller: int = 8893

    @classmethod
    def free(cls) -> Self:
        """Four ports that nobody listens on now."""
        return cls(*free_ports(4))


def free_ports(count: int) -> list[int]:
    """`count` different ports that nobody listens on now; another process may still take one before it is used."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def listening(port: int, *, host: str = HOST, timeout_seconds: float = 0.5) -> bool:
    """Whether somebody accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=timeout_seconds):
            return True
    except OSError:
        return False


def require_free(port: int, owner: str, setting: str, *, host: str = HOST) -> None:
    """Raise `PortInUse` if `owner` could not listen on `port`; the message names the setting that moves it."""
    with socket.socket() as probe:
        # As servers do: a connection that lingers after a restart is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortInUse(f"port {port} for {owner} is taken ({error.strerror}); set {setting} to another") from error
