"""Starts a command without network: `python -I _offline.py COMMAND ...`. Touches: the namespaces of its own process.

Only a loopback is left, as on a node without network: see network_namespaces(7), user_namespaces(7), netdevice(7).
Ends with 78 and the reason where the kernel does not let it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1
CANNOT = 78


def main(command: list[str]) -> None:
    """Become `command`."""
    try:
        cut_network()
    except OSError as error:
        print(f"the network cannot be cut off here: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(CANNOT) from None
    os.execvp(command[0], command)


def cut_network() -> None:
    """A network namespace of our own; without root in a user namespace, as the same user."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET if user == 0 else CLONE_NEWNET | CLONE_NEWUSER) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if user != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


if __name__ == "__main__":
    main(sys.argv[1:])
