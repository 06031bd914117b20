"""The names by which the monitor distinguishes callers.

The operator may configure a metadata key that a trusted proxy sets. Its value is then the caller's name. If
the key occurs several times, the last value counts: a client cannot override a value that the proxy appends.
Otherwise the name is that of the call's token or client certificate, or else the IP address. For IPv6 it is
the /64 network, the usual allocation of one site. All programs on this machine are one caller, and so are
all calls through the native front end's Unix socket.

Peers are written as in gRPC, "Name Resolution": `ipv4:1.2.3.4:5`, `ipv6:%5B::1%5D:5`, `unix:path`.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from urllib.parse import unquote

from serving.errors import shown

LOCAL = "local"
token_name: ContextVar[str | None] = ContextVar("token_name", default=None)
"""The name of the bearer token of the call that the current task handles."""
CERTIFICATE_NAMES = ("x509_common_name", "x509_subject_alternative_name")
"""Properties of a connection that name the client's certificate, the preferred one first."""
Metadata = Iterable[tuple[str, str | bytes]]


def caller_of(peer: str, metadata: Metadata, key: str | None, authenticated: str = "") -> str:
    """Return the name of a call's caller. Calls with equal names count as one caller.

    key: the metadata key whose last value is the name. If the key is None or missing, or its last value is
    empty, the name is `authenticated`; if that is empty too, the address.
    """
    if key is not None:
        *_, last = "", *(value for name, value in metadata if name == key)
        if isinstance(last, str) and last:
            return f"{key}={shown(last)}"
    if authenticated:
        return shown(authenticated)
    kind, _, address = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return LOCAL
    host = unquote(address).rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return _name(ipaddress.ip_address(host))
    except ValueError:
        return shown(peer)


def authenticated_name(token: str | None, properties: Mapping[str, Sequence[bytes]]) -> str:
    """Return the name of a token, or of the certificate in a connection's properties; empty without both."""
    if token is not None:
        return f"token={token}"
    for name in CERTIFICATE_NAMES:
        for value in properties.get(name, ()):
            return f"certificate={value.decode(errors='replace')}"
    return ""


def _name(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _name(address.ipv4_mapped)
        if not address.is_loopback:
            return str(ipaddress.IPv6Network((address, 64), strict=False))
    return LOCAL if address.is_loopback else str(address)
