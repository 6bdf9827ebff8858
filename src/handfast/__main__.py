"""``python -m handfast``."""

from handfast.cli.main import main

if __name__ == "__main__":
    main()
