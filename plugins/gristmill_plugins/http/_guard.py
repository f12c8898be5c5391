"""Which hosts and addresses may be asked: the allow-list, and the addresses that a name may stand for.

It opens no connection. Invariants: what is not listed is refused; a name that leads to a private, loopback, link-local
or otherwise not public address is refused unless that address is listed too, so that a public name whose owner points
it at this network (DNS rebinding) reaches nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gristmill import FunctionError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
WEB_PORTS = frozenset({80, 443})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_ENTRY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:\s]+|[0-9A-Fa-f:]+/[0-9]+)(?::(?P<port>\d{1,5}|\*))?")
_NAME = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_HOW = 'allow it in gristmill.toml: [plugin.http] hosts = ["{}"]'


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the allow-list: a name, `*.name`, or a network; with a port, or the web's."""

    name: str | None
    network: Network | None
    port: int | None
    any_port: bool = False

    def takes_port(self, port: int) -> bool:
        return self.any_port or (port in WEB_PORTS if self.port is None else port == self.port)

    def takes_host(self, host: str) -> bool:
        address = as_address(host)
        if address is not None:
            return self.network is not None and address in self.network
        if self.name is None:
            return False
        return host.endswith(self.name[1:]) if self.name.startswith("*.") else host == self.name


@dataclass(frozen=True, slots=True)
class AllowList:
    """The hosts that may be asked."""

    entries: tuple[Entry, ...]

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> AllowList:
        """Read `[plugin.http]`.

        Raises:
            FunctionError: it holds something else than a list of hosts.
        """
        unknown = sorted(set(settings) - {"hosts"})
        if unknown:
            raise FunctionError(f"gristmill.toml: plugin.http.{unknown[0]} means nothing", hint="it has: hosts")
        hosts = settings.get("hosts", [])
        if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
            raise FunctionError(
                f"gristmill.toml: plugin.http.hosts is a list of hosts, this is {hosts!r}",
                hint='hosts = ["example.com", "*.example.org", "localhost:8000"]',
            )
        return cls(tuple(map(_entry, hosts)))

    def check_host(self, host: str, port: int) -> None:
        """Refuse a host or port that no entry names.

        Raises:
            FunctionError: saying what to write where.
        """
        matching = [entry for entry in self.entries if entry.takes_host(host)]
        if not matching:
            raise FunctionError(f"{host} is not allowed: {self._known()}", hint=_HOW.format(_written(host, port)))
        if not any(entry.takes_port(port) for entry in matching):
            raise FunctionError(f"port {port} of {host} is not allowed", hint=_HOW.format(_written(host, port)))

    def check_address(self, host: str, address: Address) -> None:
        """Refuse an address that is not public and not listed itself.

        Raises:
            FunctionError: naming the address.
        """
        if all(is_public(each) for each in carried(address)):
            return
        listed = any(entry.network is not None and address in entry.network for entry in self.entries)
        is_local = host == "localhost" and address.is_loopback
        if not listed and not (is_local and any(entry.name == "localhost" for entry in self.entries)):
            raise FunctionError(
                f"{host} leads to {address}, which is not a public address",
                hint=f'if that is meant, name the address beside the host: [plugin.http] hosts = ["{address}"]',
            )

    def _known(self) -> str:
        if not self.entries:
            return "no host is, until gristmill.toml names it"
        names = [str(entry.name or entry.network) for entry in self.entries]
        return f"only {', '.join(names[:8])}" + (", ..." if len(names) > 8 else "")


def _written(host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port in WEB_PORTS else f"{shown}:{port}"


def _entry(text: str) -> Entry:
    """Read one line of the list.

    Raises:
        FunctionError: it is no host.
    """
    match = _ENTRY.fullmatch(text.strip().lower())
    host, port = (match["host"].strip("[]").rstrip("."), match["port"]) if match else ("", None)
    number = int(port) if port and port != "*" else None
    network = _as_network(host)
    if not host or (number is not None and not 0 < number < 65536) or (network is None and not _NAME.fullmatch(host)):
        raise FunctionError(
            f"gristmill.toml: {text!r} in plugin.http.hosts is no host",
            hint='write "example.com", "*.example.com", "localhost:8000", "10.0.0.0/8" or "[::1]:8080"',
        )
    return Entry(None if network else host, network, number, port == "*")


def _as_network(host: str) -> Network | None:
    try:
        return ipaddress.ip_network(host, strict=False)
    except ValueError:
        return None


def as_address(host: str) -> Address | None:
    """Return the address that a host is, or None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def carried(address: Address) -> Iterable[Address]:
    """Yield where an address leads: mapped and NAT64 ones to IPv4 hosts, 6to4 and Teredo ones also through them."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
    elif address.ipv4_mapped is not None or address in _NAT64:
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    else:
        yield address
        yield from (each for each in (address.sixtofour, *(address.teredo or ())) if each is not None)


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet's, by the IANA registries that Python knows."""
    return address.is_global and not address.is_multicast and not address.is_reserved
