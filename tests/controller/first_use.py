"""
A process that needs the controller's credential: `python first_use.py DATA`, one line on stdin and one on stdout.

It is ready when it says so; a line on stdin has it begin, so that several begin at one moment.
"""

from __future__ import annotations

import sys
from pathlib import Path

from handfast.controller.credential import own
from handfast.wiring import Overrides, open_service


def main() -> None:
    """Have a credential, and say which."""
    service = open_service(Path(sys.argv[1]), Overrides(), passphrase=None)
    try:
        print("ready", flush=True)
        sys.stdin.readline()
        print(f"serial {own(service).certificate.serial_number:032x}", flush=True)
    finally:
        service.ledger.close()


if __name__ == "__main__":
    main()
