"""The `http` plugin: fetches the text of a page, from hosts that this machine's settings allow.

Importing this package imports no httpx and opens no connection. Invariant: nothing is fetched that `gristmill.toml`
does not name: a recipe, or the text of a page, can choose among the allowed hosts and never add one.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gristmill import Context, FunctionError, Value, function

__all__ = ["HttpPlugin", "Page"]


class Page(Value):
    """What a server answered. `url` is where the last redirect led."""

    text_field = "text"

    text: str
    status: int
    content_type: str = ""
    url: str


class HttpPlugin:
    """Fetches text over HTTP from hosts that gristmill.toml allows."""

    @function
    async def get(
        self,
        url: Annotated[str, "An http or https URL; its host is one of [plugin.http] hosts in gristmill.toml."],
        context: Context,
        *,
        timeout_s: Annotated[float, Field(gt=0, le=600, description="For everything, redirects included.")] = 30.0,
        most_bytes: Annotated[
            int, Field(ge=1, le=100_000_000, description="A larger page is an error, never a cut text.")
        ] = 5_000_000,
        accept_errors: Annotated[bool, "Return the pages of statuses 400 and above too."] = False,
    ) -> Page:
        """Return the text of a page."""
        from gristmill_plugins.http._fetch import Limits, fetch
        from gristmill_plugins.http._guard import AllowList

        allowed = AllowList.from_settings(context.settings)
        fetched = await fetch(url, allowed, Limits(timeout_s=timeout_s, most_bytes=most_bytes))
        if fetched.status >= 400 and not accept_errors:
            raise FunctionError(
                f"{fetched.url} answered with the status {fetched.status}",
                hint="on_error: skip goes on without it; accept_errors: true takes its page",
            )
        return Page(text=fetched.text, status=fetched.status, content_type=fetched.content_type, url=fetched.url)
