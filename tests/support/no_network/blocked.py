"""No test uses the network: a connection that would leave this machine fails, and says so.

Python tells its audit hooks of every connection and every look-up of a name before it is made (PEP 578). Child
processes are blocked as well: the folder of this file is on their path, where `sitecustomize` calls `block`.
"""

import sys
from platform import node

_HERE = {"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::", node()}
_ADDRESS_AT = {"socket.connect": 1, "socket.sendto": 1}
_NAME_AT = {"socket.getaddrinfo": 0, "socket.gethostbyname": 0}


class NetworkBlocked(RuntimeError):  # noqa: N818
    """A test tried to reach another machine."""


def block() -> None:
    """Make every connection to another machine fail from now on, in this process, for good."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple) -> None:
    if event in _ADDRESS_AT:
        address = arguments[_ADDRESS_AT[event]]
        host = address[0] if isinstance(address, tuple) else ""  # Other families than IP have no host.
    elif event in _NAME_AT:
        host = arguments[_NAME_AT[event]]
    else:
        return
    name = host.decode() if isinstance(host, bytes) else host
    if name is not None and name not in _HERE and not name.startswith("127."):
        raise NetworkBlocked(f"{event} to {name}: the tests must pass without a network")
