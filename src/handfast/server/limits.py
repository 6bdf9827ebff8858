"""
How much a stranger may cost us, and for how long. All of it holds before anything is parsed.

The limits protect the service, not the secrets: a seed of 256 bits is not guessed at any rate.
"""

from __future__ import annotations

from dataclasses import dataclass

from handfast.core.wire import MAX_REQUEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds, bytes and counts. The defaults suit a registrar for some thousand machines on two cores."""

    body: int = MAX_REQUEST  # bytes
    line: int = 2048  # bytes of a request line; our longest path has 80
    header: int = 4096  # bytes of one header field
    headers: int = 64  # fields; curl sends 4, a browser 15
    head_timeout: float = 10.0  # from the end of the handshake, or of the last answer, to a whole request head
    body_timeout: float = 10.0
    handshake_timeout: float = 10.0
    goodbye: float = 2.0  # for the peer's close_notify, and for reading away what a refused client still sends
    drain: float = 20.0  # for requests in flight at shutdown; systemd's default patience is 90
    connections: int = 1024  # each costs about 60 kB with TLS; also the usual soft limit of descriptors
    connections_per_source: int = 256  # a site behind one address may boot at once
    unread: float = 10.0  # for a client to read what it asked for
    # Nothing limits evidence before it is verified: whoever shares an address with honest machines could use their
    # share up. Verifying costs a bounded number of reads, and of signatures to check: up to 1 ms of a core, four times
    # GET /v1/hello. What costs more (the disk, the issuing key) is counted by what was proved: a stranger has none.
    introductions: float = 50.0  # a second and one-time marker, each about 1 ms of one core
    introductions_burst: int = 1000  # the uses that one invitation may have: its machines may boot at once
    # A person's SSH certificates. Each may be taken back, and is in the list that every sshd fetches until it ends.
    logins: float = 1 / 30  # a second and person
    logins_burst: int = 50
    failures: float = 1.0  # refused evidence a second and source; past it the answer is 429, for that evidence only
    failures_burst: int = 30
    # Of host keys, which whoever holds a credential may read: one thread answers, and not for long of one source alone.
    readings: int = 64  # that wait for it; each is some milliseconds
    readings_per_source: int = 16
    downloads: int = 64  # of all machines at once, and so versions of that in memory: 60 MB with 100,000 machines
    downloads_per_source: int = 16
    download: float = 600.0  # for a whole one
    # Looks at hosts, which strangers may ask for: each is up to 64 names and 64 hosts, for half a minute. A site behind
    # one address has two for each of its machines that comes.
    looks: float = 0.2  # a second and source
    looks_burst: int = 20
    looks_of_all: float = 5.0  # a second
    looks_of_all_burst: int = 50
    looking: int = 16  # at a time
    looking_per_source: int = 2
    # For holders of a credential who are registrars themselves, with strangers of their own: they are few.
    looks_of_holder: float = 2.0
    looks_of_holder_burst: int = 50
    looking_per_holder: int = 8
    tick: float = 10.0  # between two looks at what is due: certificate, stale intents, checkpoint
