"""How a remote model was declared: checked here once, and what of it identifies the model's answers.

It sends nothing and holds no key. Invariant: options that exist are valid, and nothing secret is among them.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from gristmill import ModelError

Dialect = Literal["openai", "llama_cpp", "vllm"]
KEY_VERSION = 1
"""Raise it when the same declaration and request are sent to the server as something else."""
_OURS = frozenset({"model", "messages", "stream", "n", "seed", "response_format", "prompt", "tools", "tool_choice"})
"""What `extra_body` may not touch: the request would no longer be what its cache key says."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """A declaration under `models:`. Fields are the provider's parameters, which describe them.

    Raises:
        ModelError: one of them cannot work.
    """

    base_url: str
    model: str
    dialect: Dialect = "openai"
    api_key_env: str | None = None
    revision: str = ""
    context_tokens: int | None = None
    timeout_s: float = 300.0
    read_timeout_s: float | None = None
    connect_timeout_s: float = 10.0
    retries: int = 2
    concurrency: int = 8
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))
        if not self.model.strip():
            raise self._mistake("model is empty", "name the model as the server does: GET /v1/models lists them")
        if why := _wrong_url(self.base_url):
            raise self._mistake(f"base_url {_without_user(self.base_url)!r} {why}", "such as http://127.0.0.1:8080/v1")
        variable = self.api_key_env
        if variable is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
            # The value is not shown: it may well be the key itself.
            raise self._mistake(
                "api_key_env is not the name of an environment variable",
                "put the key into a variable, and the variable's name here",
            )
        if taken := sorted(_OURS & set(self.extra_body)):
            raise self._mistake(f"extra_body may not set {', '.join(taken)}", "steps set what is asked")
        try:
            json.dumps(dict(self.extra_body), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise self._mistake(f"extra_body is no JSON: {error}", "it becomes a part of each request") from error

    def _mistake(self, text: str, hint: str) -> ModelError:
        return ModelError(text, model=self.model or "chat", cause="load", hint=hint)

    @property
    def root_url(self) -> str:
        """Where the server's own endpoints begin: the base URL without `/v1`."""
        return self.base_url.removesuffix("/v1")

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine, so that no proxy may stand between."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that the answers depend on and a client can know."""
        facts = {
            "chat": KEY_VERSION,
            "base_url": self.base_url,
            "model": self.model,
            "dialect": self.dialect,
            "revision": self.revision,
            "extra_body": dict(self.extra_body),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def key(self) -> str | None:
        """Read the key from the environment.

        Raises:
            ModelError: the variable is missing, empty, or holds what no header can.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise self._mistake(
                f"the environment variable {self.api_key_env} is not set, and {self.model} needs its key",
                f"export {self.api_key_env}=...",
            )
        if not (key.isascii() and key.isprintable()):
            raise self._mistake(
                f"the environment variable {self.api_key_env} holds characters that no key has", "set it anew"
            )
        return key


def _wrong_url(url: str) -> str:
    """Return what is wrong with a base URL, or nothing."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"is no URL: {error}"
    if parts.scheme not in ("http", "https"):
        return "does not begin with http:// or https://"
    if not parts.hostname or port == 0:
        return "names no host"
    return _unwanted(parts) or ("" if url.isprintable() and " " not in url else "holds a character that no URL has")


def _unwanted(parts: SplitResult) -> str:
    if parts.username is not None or parts.password is not None:
        return "holds a user name or password: keys come from the environment"
    if parts.query or parts.fragment:
        return "ends in a query or fragment"
    return "names an endpoint: end it before /chat/completions" if parts.path.endswith("/completions") else ""


def _without_user(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", url)
