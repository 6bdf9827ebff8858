"""`handfast` that ends as by SIGKILL: `python -m tests.agent.dying NUMBER PART ARGUMENTS`; see ``program.die``."""

from __future__ import annotations

import sys

from handfast.cli.main import main
from tests.agent.program import die

if __name__ == "__main__":
    die(int(sys.argv[1]), sys.argv[2])
    main(sys.argv[3:])
