"""Addresses to listen on."""

import socket

from serving.errors import ConfigurationError


def join(host: str, port: int) -> str:
    """Join host and port; an IPv6 address gets brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether only programs on this machine can connect to a host."""
    try:
        infos = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    addresses = {address[0] for *_, address in infos}
    return all(str(address).startswith("127.") or address == "::1" for address in addresses)


def check_free(host: str, port: int) -> None:
    """Raise ConfigurationError with the cause if a port is not available. gRPC reports no cause."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"gRPC port: cannot listen on {join(host, port)}: {error.strerror}"
        ) from error
