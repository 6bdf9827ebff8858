"""Logs as data: JSON lines where a machine reads, words on a terminal. Always stderr; stdout is for data."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp.http_exceptions import HttpProcessingError

from handfast.adapters.imports import without

with without("rich"):  # for its tracebacks; ours are plain, and a process that lasts would keep 7 MB of it
    import structlog


class _NotNews(logging.Filter):
    """Drops aiohttp's traceback for a request that is no HTTP: any scanner could fill the disk with them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def configure(level: int = logging.INFO) -> None:
    """
    Send our records from ``level`` on, and those of libraries which use ``logging``, to stderr in one form.

    Ours do not pass through ``logging``: that would cost as much as answering a small request. Tracebacks
    come without local variables: those hold request bodies and keys.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    factory: Callable[..., structlog.typing.WrappedLogger]
    if sys.stderr.isatty():
        renderer: Any = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        ours, factory = [*shared, renderer], structlog.PrintLoggerFactory(sys.stderr)
        theirs = [*shared, renderer]
    else:
        plain = [*shared, structlog.processors.format_exc_info]
        ours, factory = [*plain, _json], structlog.BytesLoggerFactory(sys.stderr.buffer)
        theirs = [*plain, lambda *record: _json(*record).decode()]
    structlog.configure(
        processors=ours,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[remove, *theirs]))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.getLogger("aiohttp.server").addFilter(_NotNews())


def _json(_logger: Any, _method: str, event: structlog.typing.EventDict) -> bytes:
    return msgspec.json.encode(event, enc_hook=str)
