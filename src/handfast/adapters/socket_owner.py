"""
Which user holds the other end of a TCP connection on this machine, asked of the kernel (Linux's sock_diag(7)).

/proc/net/tcp has the same answer, but lists every connection: on a busy machine that is 30 ms for each question.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct

from handfast.errors import Fault

_NETLINK_SOCK_DIAG, _BY_FAMILY, _REQUEST, _ERROR = 4, 20, 1, 2
_HEAD = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_WANTED = struct.Struct("=BBBBI")  # inet_diag_req_v2: family, protocol, extensions, padding, states; then a sockid
_SOCKID = struct.Struct("!HH16s16s12s")  # ports, addresses, interface and cookie
_ANY = b"\0" * 4 + b"\xff" * 8  # any interface, no cookie
_BEFORE_UID = 4 + _SOCKID.size + 12  # inet_diag_msg: state, sockid, three counters
_UID_INODE = struct.Struct("=II")


def peer_uid(connected: socket.socket) -> int | None:
    """
    Return the user id behind the peer of a TCP connection within this machine; None if it is gone, or not here.

    The user is who made the socket: a process that was handed it may be another's.

    :raises Fault: the kernel does not answer such questions.
    """
    try:
        theirs, ours = connected.getpeername(), connected.getsockname()
    except OSError:
        return None
    sockid = _SOCKID.pack(theirs[1], ours[1], _packed(theirs[0]), _packed(ours[0]), _ANY)
    question = _WANTED.pack(connected.family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + sockid
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as asking:
            asking.send(_HEAD.pack(_HEAD.size + len(question), _BY_FAMILY, _REQUEST, 1, 0) + question)
            answer = asking.recv(8192)
    except OSError as error:
        raise Fault(f"the kernel does not say whose a connection is: {error.strerror}") from None
    _, kind, _, _, _ = _HEAD.unpack_from(answer)
    if kind == _ERROR:
        code = -struct.unpack_from("=i", answer, _HEAD.size)[0]
        if code == errno.ENOENT:
            return None
        raise Fault(f"the kernel does not say whose a connection is: {os.strerror(code)}")
    uid, inode = _UID_INODE.unpack_from(answer, _HEAD.size + _BEFORE_UID)
    # A connection that its process has closed already belongs to nobody, and the kernel says 0 for that: root. Whoever
    # sends and closes before we look must not be taken for it.
    return int(uid) if inode else None


def _packed(host: str) -> bytes:
    return ipaddress.ip_address(host.partition("%")[0]).packed.ljust(16, b"\0")
