"""OpenAPI 3: an operation for each method of each path, with examples made from its schemas."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from perfkit.errors import BadInput
from perfkit.scaffold.api import MOST_OPERATIONS, NO_BODY, Api, Operation, identifier, mapping

_METHODS = ("get", "head", "options", "post", "put", "patch", "delete")
_DEEPEST, _MOST_VALUES = 8, 500  #: of one example
_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "email": "someone@example.com",
    "uri": "http://example.com",
}
_LOCAL = "#/"


def read(document: Mapping[Any, Any], where: str) -> Api:
    """Return the operations of a description; BadInput for another version, and for one without any."""
    version = str(document.get("openapi", ""))
    if not version.startswith("3."):
        given = f"openapi {version or 'not given'}"
        given = f"swagger {document['swagger']}" if "swagger" in document else given
        raise BadInput(f"{where}: {given:.60}; perfkit reads OpenAPI 3: convert it first")
    found = _Reader(document)
    operations = tuple(found.operations())
    if not operations:
        raise BadInput(f"{where}: it describes no operation: paths is empty")
    title = str(mapping(document.get("info")).get("title") or where)
    token, secrets, notes = found.security()
    return Api(title, found.origin, operations, token, secrets, (*found.notes, *notes))


class _Reader:
    """A document whose parts may refer to each other; whatever does not fit is left out."""

    def __init__(self, document: Mapping[Any, Any]) -> None:
        self._document = document
        self._required: list[Any] = [document.get("security")]
        self.notes: list[str] = []
        self._inside: list[Any] = []  #: references of the schemas an example is being made of
        self._left = 0  #: values it may still have
        self.origin, self._prefix = self._server()

    def _server(self) -> tuple[str | None, str]:
        """Origin and beginning of all paths, of the first server."""
        servers = self._document.get("servers")
        first = mapping(servers[0]) if isinstance(servers, list) and servers else {}
        variables = mapping(first.get("variables"))
        url = re.sub(r"\{([^{}]*)\}", lambda name: str(mapping(variables.get(name[1])).get("default", "")),
                     str(first.get("url", "")))  # fmt: skip
        try:
            parts = urlsplit(url)
        except ValueError:
            return None, ""
        known = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        return f"{parts.scheme}://{parts.netloc}" if known else None, parts.path.rstrip("/")

    def operations(self) -> Iterator[Operation]:
        taken: set[str] = set()
        for path, item in mapping(self._document.get("paths")).items():
            item = self._resolved(item)
            for method in _METHODS:
                given = self._resolved(item.get(method))
                if method not in item or not str(path).startswith("/"):
                    continue
                if len(taken) >= MOST_OPERATIONS:
                    self.notes = [f"only the first {MOST_OPERATIONS} operations were taken"]
                    return
                self._required.append(given.get("security"))
                name = identifier(str(given.get("operationId") or f"{method} {path}"), taken)
                taken.add(name)
                yield self._operation(name, method.upper(), str(path), item, given)

    def _operation(
        self, name: str, method: str, path: str, item: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Operation:
        values: dict[str, str] = {}
        query: dict[str, Any] = {}
        headers: dict[str, str] = {}
        for parameter in self._parameters(item, given):
            place, label = parameter.get("in"), str(parameter.get("name"))
            example = self._example_of(parameter)
            if place == "path":
                values[label] = str(example)
            elif place == "query" and parameter.get("required"):
                query[label] = example
            elif place == "header" and parameter.get("required"):
                headers[label] = str(example)
        json, content = NO_BODY, None
        media = mapping(self._resolved(given.get("requestBody")).get("content"))
        kind = next((one for one in media if "json" in str(one)), next(iter(media), None))
        if kind is not None:
            example = self._example_of(self._resolved(media[kind]))
            json, content = (example, None) if "json" in str(kind) else (NO_BODY, str(example))
            if kind != "application/json":
                headers["content-type"] = str(kind)
        doc = str(given.get("summary") or given.get("description") or "")
        return Operation(name, method, self._prefix + path, doc, values, query, headers, json, content)

    def _parameters(self, item: Mapping[str, Any], given: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Those of the path and of the operation, which come first."""
        found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        for several in (given.get("parameters"), item.get("parameters")):
            for one in several if isinstance(several, list) else ():
                parameter = self._resolved(one)
                found.setdefault((str(parameter.get("name")), str(parameter.get("in"))), parameter)
        return list(found.values())

    def _example_of(self, holder: Mapping[str, Any]) -> Any:
        """An example of a parameter or a body: its own, or one of its schema."""
        if "example" in holder:
            return holder["example"]
        several = mapping(holder.get("examples"))
        if several:
            return self._resolved(next(iter(several.values()))).get("value")
        self._left = _MOST_VALUES
        return self._example(holder.get("schema"), 0)

    def _example(self, given: Any, depth: int) -> Any:
        """A value that a schema allows; None beyond the bounds."""
        reference = mapping(given).get("$ref")
        if reference is not None and reference in self._inside:
            return None  # it contains itself
        self._inside.append(reference)
        try:
            return self._example_in(self._resolved(given), depth)
        finally:
            self._inside.pop()

    def _example_in(self, schema: Mapping[str, Any], depth: int) -> Any:
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:
            return None
        for name in ("example", "default", "const"):
            if name in schema:
                return schema[name]
        for name in ("examples", "enum"):
            if isinstance(schema.get(name), list) and schema[name]:
                return schema[name][0]
        for name in ("oneOf", "anyOf"):
            if isinstance(schema.get(name), list) and schema[name]:
                return self._example(schema[name][0], depth + 1)
        kinds = schema.get("type")
        kind = next((one for one in kinds if one != "null"), None) if isinstance(kinds, list) else kinds
        if kind == "object" or schema.keys() & {"properties", "allOf"}:
            return self._object(schema, depth)
        if kind == "array":
            return [self._example(schema.get("items"), depth + 1)]
        if kind in ("integer", "number"):
            return schema.get("minimum", 1)
        return True if kind == "boolean" else _FORMATS.get(str(schema.get("format")), "text")

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """An object with its required properties, with all where none is required."""
        found: dict[str, Any] = {}
        for part in schema["allOf"] if isinstance(schema.get("allOf"), list) else ():
            inner = self._example(part, depth + 1)
            found |= inner if isinstance(inner, dict) else {}
        required = schema.get("required")
        for name, one in mapping(schema.get("properties")).items():
            if not self._resolved(one).get("readOnly") and (
                not isinstance(required, list) or name in required
            ):
                found[str(name)] = self._example(one, depth + 1)
        return found

    def _resolved(self, given: Any) -> Mapping[str, Any]:
        """A part, or what it refers to in this document; empty for what is not there."""
        for _ in range(_DEEPEST):
            part = mapping(given)
            reference = part.get("$ref")
            if not isinstance(reference, str):
                return part
            given = self._document if reference.startswith(_LOCAL) else None
            for name in reference.removeprefix(_LOCAL).split("/") if given else ():
                given = mapping(given).get(name.replace("~1", "/").replace("~0", "~"))
        return {}

    def security(self) -> tuple[bool, tuple[str, ...], tuple[str, ...]]:
        """Whether a bearer token is sent, headers that hold a secret, and notes on what is left out."""
        schemes = mapping(mapping(self._document.get("components")).get("securitySchemes"))
        wanted = {name for several in self._required if isinstance(several, list)
                  for one in several for name in mapping(one)}  # fmt: skip
        token, headers, notes = False, [], []
        for name in sorted(map(str, wanted)):
            scheme = self._resolved(schemes.get(name))
            kind, how = scheme.get("type"), str(scheme.get("scheme", "")).lower()
            if kind in ("oauth2", "openIdConnect") or (kind == "http" and how == "bearer"):
                token = True
            elif kind == "http":
                headers.append("Authorization")
            elif kind == "apiKey" and scheme.get("in") == "header":
                headers.append(str(scheme.get("name")))
            else:
                notes.append(f"authentication {name:.60} ({scheme.get('in') or kind}) is for you to write")
        return token, tuple(dict.fromkeys(headers)), tuple(notes)
