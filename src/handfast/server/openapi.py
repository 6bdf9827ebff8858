"""OpenAPI 3.1, made from the table of routes and the wire's own types: it cannot say anything else than they do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

import handfast
from handfast.adapters.problems import MEDIA_TYPE
from handfast.core.wire import Problem
from handfast.server.routes import ROUTES, Route, Shape

_REFERENCE = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)\}")


def document(routes: Sequence[Route] = ROUTES) -> dict[str, Any]:
    """Return the description of ``routes``."""
    types = list(dict.fromkeys([Problem, *_types(routes)]))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Handfast registrar",
            "version": handfast.__version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"operator": {"type": "mutualTLS", "description": "a credential of role operator"}},
        },
    }


def _operation(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__ + ("" if route.path != "/livez" else "_live"),
        "summary": (route.handler.__doc__ or "").strip(),
        "parameters": [
            *(_parameter(name, "path") for name in _PARAMETER.findall(route.path)),
            *(_parameter(name, "query") for name in route.query),
        ],
        "responses": {
            "2XX": {"description": "done", "content": _content(route.gives, schema_of)},
            "default": {"description": "refused (RFC 9457)", "content": {MEDIA_TYPE: {"schema": schema_of[Problem]}}},
        },
    }
    if route.takes is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.takes, schema_of)}
    if route.operator:
        operation["security"] = [{"operator": []}]
    return operation


def _parameter(name: str, where: str) -> dict[str, Any]:
    return {"name": name, "in": where, "required": where == "path", "schema": {"type": "string"}}


def _content(shape: Shape, schema_of: dict[Any, Any]) -> dict[str, Any]:
    if isinstance(shape, str):
        return {shape: {}}
    if isinstance(shape, tuple):
        return {"application/json": {"schema": {"oneOf": [schema_of[kind] for kind in shape]}}}
    return {"application/json": {"schema": schema_of[shape]}}


def _types(routes: Iterable[Route]) -> Iterable[Any]:
    for route in routes:
        for shape in (route.takes, route.gives):
            if isinstance(shape, tuple):
                yield from shape
            elif shape is not None and not isinstance(shape, str):
                yield shape
