"""The operations of an OpenAPI 3 document as tools, and calls of them over HTTP.

A document names the paths and the arguments; gristmill.toml names the document, and may name another server and the
variables that hold keys. Invariants: requests go to that server and follow no redirect; an answer is bounded; keys come
from the environment and are in no message.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from gristmill import FunctionError, UsageError

METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
MOST_BYTES = 10_000_000
MOST_DEPTH = 20
TIMEOUT_S = 60.0


def read_document(place: str, folder: Path) -> tuple[Mapping[str, Any], str]:
    """Return a document, from a file (relative to `folder`) or a URL, and where its server is.

    Raises:
        UsageError: it cannot be read, or is no OpenAPI 3 document.
    """
    import httpx
    import yaml

    try:
        if urlsplit(place).scheme in ("http", "https"):
            answer = httpx.get(place, timeout=TIMEOUT_S, follow_redirects=False)
            answer.raise_for_status()
            text = answer.text
        else:
            text = (folder / Path(place).expanduser()).read_text(encoding="utf-8")
        document = yaml.safe_load(text)  # JSON is YAML too
    except (OSError, UnicodeDecodeError, httpx.HTTPError, yaml.YAMLError) as error:
        raise UsageError(f"the OpenAPI document {place} cannot be read: {error}") from error
    if not isinstance(document, Mapping) or not str(document.get("openapi", "")).startswith("3."):
        raise UsageError(f"{place} is no OpenAPI 3 document")
    servers = document.get("servers") or [{}]
    return document, urljoin(place, str(servers[0].get("url") or "")).rstrip("/")


def tools_of(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each operation as a tool."""
    for path, item in (document.get("paths") or {}).items():
        for method in METHODS:
            operation = item.get(method) if isinstance(item, Mapping) else None
            if isinstance(operation, Mapping):
                yield _tool(document, path, method, item, operation)


def _tool(
    document: Mapping[str, Any], path: str, method: str, item: Mapping[str, Any], operation: Mapping[str, Any]
) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    places: dict[str, str] = {}
    required: list[str] = []
    for part in (_resolved(document, one) for one in [*item.get("parameters", ()), *operation.get("parameters", ())]):
        name = str(part["name"])
        properties[name] = {**part.get("schema", {}), "description": str(part.get("description") or "")}
        places[name] = str(part["in"])
        if part.get("required") or part["in"] == "path":
            required.append(name)
    body = _resolved(document, operation.get("requestBody") or {})
    schema = (body.get("content") or {}).get("application/json", {}).get("schema")
    if schema is not None:
        properties["body"], places["body"] = schema, "body"
        required += ["body"] if body.get("required") else []
    returns = _returned(document, operation)
    return {
        "name": str(operation.get("operationId") or f"{method}_{path}"),
        "description": str(operation.get("summary") or operation.get("description") or f"{method.upper()} {path}"),
        "parameters": {"type": "object", "properties": properties, "required": sorted(set(required))},
        "returns": returns,
        "writes": method not in ("get", "head", "options"),
        "method": method,
        "path": path,
        "places": places,
    }


def _returned(document: Mapping[str, Any], operation: Mapping[str, Any]) -> dict[str, Any]:
    for status, answer in (operation.get("responses") or {}).items():
        if str(status).startswith("2"):
            content = _resolved(document, answer).get("content") or {}
            found: dict[str, Any] = content.get("application/json", {}).get("schema") or {}
            return found
    return {}


def _resolved(document: Mapping[str, Any], node: Any, depth: int = 0) -> Any:
    """Return a part of the document with its references, which stay inside the document, put in place."""
    if depth > MOST_DEPTH:
        return {}
    if isinstance(node, list):
        return [_resolved(document, one, depth + 1) for one in node]
    if not isinstance(node, Mapping):
        return node
    if isinstance(reference := node.get("$ref"), str):
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            target = target.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(target, Mapping) else {}
        return _resolved(document, target, depth + 1)
    return {key: _resolved(document, value, depth + 1) for key, value in node.items()}


async def send(
    name: str, declared: Mapping[str, Any], server: str, tool: Mapping[str, Any], given: Mapping[str, Any]
) -> Any:
    """Make one call, and return the JSON or text that it answers.

    Raises:
        FunctionError: the server cannot be reached, refuses, or answers too much.
    """
    import httpx

    url, query, headers, body = _request(declared, server, tool, given)
    try:
        async with (
            httpx.AsyncClient(timeout=float(declared.get("timeout_s", TIMEOUT_S)), follow_redirects=False) as client,
            client.stream(tool["method"].upper(), url, params=query, headers=headers, json=body) as answer,
        ):
            parts, size = [], 0
            async for chunk in answer.aiter_bytes():
                size += len(chunk)
                if size > MOST_BYTES:
                    raise FunctionError(f"{name}.{tool['name']} answered more than {MOST_BYTES // 10**6} MB")
                parts.append(chunk)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FunctionError(f"{name}.{tool['name']}: {error or type(error).__name__}") from error
    text = b"".join(parts).decode("utf-8", "replace")
    if not 200 <= answer.status_code < 300:
        raise FunctionError(f"{name}.{tool['name']} (HTTP {answer.status_code}): {' '.join(text.split())[:300]}")
    try:
        return json.loads(text) if "json" in answer.headers.get("content-type", "") and text else text
    except ValueError as error:
        raise FunctionError(f"{name}.{tool['name']} answered what is no JSON: {text[:100]!r}") from error


def _request(
    declared: Mapping[str, Any], server: str, tool: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[str, dict[str, Any], dict[str, str], Any]:
    path, query, body = str(tool["path"]), dict[str, Any](), None
    headers = {name: _key(variable) for name, variable in dict(declared.get("headers_env") or {}).items()}
    for name, value in given.items():
        place = tool["places"].get(name)
        if place == "path":
            path = path.replace("{" + name + "}", quote(str(value), safe=""))
        elif place == "query":
            query[name] = value
        elif place == "header":
            headers[name] = str(value)
        elif place == "body":
            body = value
    return f"{str(declared.get('url') or server).rstrip('/')}{path}", query, headers, body


def _key(variable: Any) -> str:
    if (key := os.environ.get(str(variable))) is None:
        raise FunctionError(f"the environment variable {variable} is not set", hint=f"export {variable}=...")
    return key
