"""
A stand-in for pvserver, for what the real one cannot be made to do: old, new, broken, silent, ended at will.

It takes pvserver's flags and prints pvserver's lines, and echoes what it gets. Run by the interpreter of the tests.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

HELP = (
    "Options:\n --connect-id INT=0\n --no-mpi Excludes: --mpi\n -r,--rc,--reverse-connection=0\n -p,--sp,--server-port"
)
NEWER = " --bind-address TEXT=0.0.0.0\n"


def echo(peer: socket.socket) -> None:
    """Give back every byte, and say when there are no more. One byte 0x04 ends the program."""
    print("Client connected.", flush=True)
    while data := peer.recv(65536):
        if data == b"\4":
            os._exit(7)
        peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
    print("Client gone.", flush=True)


def main() -> None:
    """Do as the flags say."""
    flags = dict(each.partition("=")[::2] for each in sys.argv[1:])
    if "--help" in flags:
        print(HELP + NEWER * ("--newer" in flags))
    elif "--version" in flags:
        print("paraview version 5.11.0")
    elif "--broken" in flags:
        sys.exit("cannot open display\nno GPU here")
    elif "--reverse-connection" in flags:
        print("pid", os.getpid(), flush=True)
        echo(socket.create_connection((flags["--client-host"], int(flags["--server-port"]))))
        print("Exiting...", flush=True)
    else:
        listener = socket.create_server(("127.0.0.1", int(flags["--server-port"])))
        print("pid", os.getpid(), flush=True)
        print("flags", *sys.argv[1:], flush=True)
        print(f"Accepting connection(s): somewhere:{listener.getsockname()[1]}", flush=True)
        while True:
            threading.Thread(target=echo, args=(listener.accept()[0],)).start()


if __name__ == "__main__":
    main()
