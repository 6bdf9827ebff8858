"""A small private authority, and ways for machines to be introduced to it."""

__version__ = "0.1.0"
