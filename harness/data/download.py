"""Downloads of data files into a cache: whole or not at all, resumed where they stopped, checked when they arrive."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from harness.core.errors import DataError
from harness.core.types import DataFile

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0


def cached(file: DataFile) -> Path | None:
    """The file in the cache, without asking the network."""
    if file.url is not None:
        path = _url_path(file)
        return path if path.is_file() else None
    if file.repo is None:
        return None
    # The hub client's own look-up, without the half second that importing it takes.
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE, f"datasets--{file.repo.replace('/', '--')}")
    ref = folder / "refs" / file.revision
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else file.revision
    path = folder / "snapshots" / commit / file.path
    return path if path.is_file() else None


def download(file: DataFile) -> Path:
    """Fetch the file from where it is published, replacing what the cache has. Raises DataError."""
    if file.repo is None and file.url is None:
        raise DataError(
            f"{file.mirrored_as} is published nowhere that can be downloaded from; set HARNESS_DATA_DIR to a folder "
            "that has it"
        )
    try:
        path = _from_url(file) if file.url is not None else _from_hub(file)
        _verify(file, path)
    except OSError as error:  # the disk: everything else has been given its own message by now
        variable = "HF_HOME" if file.url is None else "XDG_CACHE_HOME"
        raise DataError(
            f"{file} can't be kept in the cache: {error}; make room, or set {variable} elsewhere"
        ) from error
    return path


def _verify(file: DataFile, path: Path) -> None:
    """The bytes are those the hub or the card names; what is not leaves the cache."""
    blob = path.resolve()
    wanted = file.sha256 if file.sha256 is not None else blob.name
    found = _digest(blob, wanted)
    if found is not None and found != wanted:
        for name in {path, blob}:
            name.unlink(missing_ok=True)
        raise DataError(
            f"{file} arrived altered or cut short (its checksum is {found[:12]}, not {wanted[:12]}), and was thrown "
            "away; fetch it again, and if that does not help, its owner has changed it"
        )


def _digest(path: Path, like: str) -> str | None:
    """The hash of the kind that `like` is: SHA-256, or git's for a small file. None when it is neither."""
    if not set(like) <= set("0123456789abcdef") or len(like) not in (40, 64):
        return None
    digest: Any = hashlib.sha256()
    if len(like) == 40:
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(CHUNK_BYTES):
            digest.update(piece)
    return str(digest.hexdigest())


# --- the hub ----------------------------------------------------------------------------------------------------


def _from_hub(file: DataFile) -> Path:
    from huggingface_hub import hf_hub_download

    assert file.repo is not None
    is_held = cached(file) is not None
    try:
        path = hf_hub_download(
            file.repo, file.path, repo_type="dataset", revision=file.revision, force_download=is_held
        )
    except Exception as error:  # the client lets its transport's own errors through
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise
        raise DataError(_advice(file, error)) from error
    return Path(path)


def _advice(file: DataFile, error: Exception) -> str:
    """What an error of the hub's client means, and what to do about it."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{file.repo}"
    token = "give your token (`hf auth login`, or HF_TOKEN)"
    terms = f" (it is gated: accept its terms at {page}, and {token})" if file.is_gated else ""
    told: list[tuple[tuple[type[Exception], ...], str]] = [
        ((errors.GatedRepoError,), f"{file} is gated: accept its terms at {page}, then {token}"),
        ((errors.RevisionNotFoundError,), f"{page} has no revision {file.revision}; its owner has removed it"),
        ((errors.RemoteEntryNotFoundError,), f"{page} has no file {file.path} at {file.revision}; its owner moved it"),
        ((errors.RepositoryNotFoundError,), f"{page} is not there, or not for you; if it is private, {token}"),
        (
            (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled),
            f"{file} is not on this machine and the hub can't be reached; with a network{terms}, run `harness fetch "
            "TASK` once, or set HARNESS_DATA_DIR to a folder that has the file",
        ),
        ((errors.HfHubHTTPError,), f"the hub did not give {file}: {_one_line(error)}; try again later"),
    ]
    broke_off = f"the download of {file} broke off ({_one_line(error)}); run the same command again"
    return next((advice for kinds, advice in told if isinstance(error, kinds)), broke_off)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


# --- elsewhere --------------------------------------------------------------------------------------------------


def _url_path(file: DataFile) -> Path:
    return cache_root() / "files" / file.path


def cache_root() -> Path:
    """Where this project keeps what it can make or fetch again."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "harness"


def _from_url(file: DataFile) -> Path:
    """Into a `.part` file, which a later call goes on with, then renamed."""
    path = _url_path(file)
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    held = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(str(file.url), headers={"Range": f"bytes={held}-"} if held else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            _pour(answer, part, "ab" if answer.status == 206 else "wb")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code < 500:
            part.unlink(missing_ok=True)
        if held and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _from_url(file)  # nothing follows what was held: it was whole, or of another file
        raise DataError(f"{file.url} answered {error.code} {error.reason}; its owner may have moved it") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(
            f"{file.url} can't be reached ({_one_line(error)}); with a network, run `harness fetch TASK` once, or set "
            "HARNESS_DATA_DIR to a folder that has the file"
        ) from error
    part.replace(path)
    return path


def _pour(answer: Any, part: Path, mode: str) -> None:
    promised = answer.headers.get("Content-Length")
    poured = 0
    with part.open(mode) as stream:
        while piece := answer.read(CHUNK_BYTES):
            poured += len(piece)
            stream.write(piece)
    if promised is not None and poured < int(promised):
        raise ConnectionError(f"only {poured} of {promised} bytes came")
