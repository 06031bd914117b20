"""Who sent a call, as far as the monitor tells callers apart.

That is the value of a metadata key, where the operator names one that a trusted proxy sets; else the IP
address, for IPv6 its /64 network, which is what one site gets. Where the key occurs several times, its
last value counts: a proxy that appends a value cannot be overridden by the client. All programs on this
machine are one caller, and so is whatever comes through the native front end's Unix socket. (Peers are
written as in gRPC, "Name Resolution": `ipv4:1.2.3.4:5`, `ipv6:%5B::1%5D:5`, `unix:path`.)
"""

import ipaddress
from collections.abc import Iterable
from urllib.parse import unquote

from serving.errors import shown

LOCAL = "local"
Metadata = Iterable[tuple[str, str | bytes]]


def caller_of(peer: str, metadata: Metadata, key: str | None) -> str:
    """Return a name for the sender of a call: equal for calls that count as one caller's.

    key: the metadata key that names the caller, by its last value. The address names it where the key is
    None, or is not in the call, or its last value is empty.
    """
    if key is not None:
        *_, last = "", *(value for name, value in metadata if name == key)
        if isinstance(last, str) and last:
            return f"{key}={shown(last)}"
    kind, _, address = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return LOCAL
    host = unquote(address).rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return _name(ipaddress.ip_address(host))
    except ValueError:
        return shown(peer)


def _name(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _name(address.ipv4_mapped)
        if not address.is_loopback:
            return str(ipaddress.IPv6Network((address, 64), strict=False))
    return LOCAL if address.is_loopback else str(address)
