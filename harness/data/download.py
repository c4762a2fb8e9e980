"""Download data files into the cache: complete or not at all, resumable, verified after the transfer."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import hub
from harness.core.errors import DataError
from harness.core.types import DataFile

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
TOKEN = "give your token (`hf auth login`, or HF_TOKEN)"
LISTING_TIMEOUT_S = 10.0


def cached(file: DataFile) -> Path | None:
    """Return the file in the cache, or None, without using the network."""
    if file.url is not None:
        path = _url_path(file)
        return path if path.is_file() else None
    if file.repo is None:
        return None
    path = _snapshot(file.repo, file.revision)[1] / file.path
    return path if path.is_file() else None


def _snapshot(repo: str, revision: str) -> tuple[str, Path]:
    """Return the commit of a revision and its folder in the hub client's cache, which need not exist."""
    # Same lookup as the client's, without the half second of importing it.
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE, f"datasets--{repo.replace('/', '--')}")
    ref = folder / "refs" / revision
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    return commit, folder / "snapshots" / commit


def download(file: DataFile) -> Path:
    """Download the file and replace the cached copy. Raises DataError."""
    if file.repo is None and file.url is None:
        raise DataError(f"{file.mirrored_as} has no download location; set HARNESS_DATA_DIR to a folder that has it")
    try:
        path = _from_url(file) if file.url is not None else _from_hub(file)
        _verify(file, path)
    except OSError as error:  # only disk errors are left: the others have been converted
        variable = "HF_HOME" if file.url is None else "XDG_CACHE_HOME"
        raise DataError(
            f"{file} can't be written to the cache: {error}; free disk space, or set {variable} to another folder"
        ) from error
    return path


def _verify(file: DataFile, path: Path) -> None:
    """Compare the checksum with the hub's or the given one; delete the file from the cache if it differs."""
    blob = path.resolve()
    wanted = file.sha256 if file.sha256 is not None else blob.name
    found = _digest(blob, wanted)
    if found is not None and found != wanted:
        for name in {path, blob}:
            name.unlink(missing_ok=True)
        raise DataError(
            f"{file} was altered or truncated (checksum {found[:12]}, expected {wanted[:12]}) and has been deleted; "
            "fetch it again, and if that does not help, its owner has changed it"
        )


def _digest(path: Path, like: str) -> str | None:
    """Return the hash of the same type as `like`: SHA-256, or git's for a small file. None if it is neither."""
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
    reason = hub.why_unreachable()
    if reason is not None:
        raise DataError(_unreachable(file, reason))
    try:
        path = hf_hub_download(
            file.repo, file.path, repo_type="dataset", revision=file.revision, force_download=is_held
        )
    except Exception as error:  # the client does not wrap the errors of its transport
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise
        raise DataError(_advice(file, error)) from error
    return Path(path)


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a dataset on the hub at one commit."""

    commit: str
    files: Sequence[str]


def listing(repo: str, revision: str = "main") -> Listing:
    """Return the files of a dataset: as listed before on this machine, else by the hub, else those in its cache.

    Raise DataError if none of them has it.
    """
    path = cache_root() / "listings" / f"{repo.replace('/', '--')}@{revision.replace('/', '--')}.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Listing(stored["commit"], stored["files"])
    except (OSError, ValueError, KeyError):  # not listed yet, or damaged
        pass
    try:
        found = _list_on_hub(repo, revision)
    except DataError:
        cached_files = _list_in_cache(repo, revision)
        if cached_files is None:
            raise
        return cached_files
    with contextlib.suppress(OSError):  # the next call asks the hub again
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"commit": found.commit, "files": list(found.files)}), encoding="utf-8")
    return found


def _list_in_cache(repo: str, revision: str) -> Listing | None:
    """Return the files that the hub's client has downloaded; None without any."""
    commit, snapshot = _snapshot(repo, revision)
    files = sorted(str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file())
    return Listing(commit, files) if files else None


def _list_on_hub(repo: str, revision: str) -> Listing:
    from huggingface_hub import HfApi, errors

    reason = hub.why_unreachable()
    if reason is not None:
        raise DataError(_unlisted(repo, reason))
    try:
        info = HfApi().dataset_info(repo, revision=revision, timeout=LISTING_TIMEOUT_S)
    except (errors.GatedRepoError, errors.RevisionNotFoundError, errors.RepositoryNotFoundError) as error:
        raise DataError(_advice(DataFile("", repo, revision), error)) from error
    except Exception as error:  # the client does not wrap the errors of its transport
        raise DataError(_unlisted(repo, _one_line(error))) from error
    if info.sha is None or info.siblings is None:
        raise DataError(f"the hub lists no files of {repo} at {revision}; give another revision")
    return Listing(info.sha, sorted(file.rfilename for file in info.siblings))


def _unlisted(repo: str, reason: str) -> str:
    return (
        f"the hub did not list the files of {repo} ({reason}); try again with a network, or set HARNESS_DATA_DIR to a "
        f"folder that has {repo}"
    )


def _advice(file: DataFile, error: Exception) -> str:
    """Explain an error of the hub's client and what to do about it."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{file.repo}"
    advice_by_error: list[tuple[tuple[type[Exception], ...], str]] = [
        ((errors.GatedRepoError,), f"{file} is gated: accept its terms at {page}, then {TOKEN}"),
        ((errors.RevisionNotFoundError,), f"{page} has no revision {file.revision}; its owner has removed it"),
        ((errors.RemoteEntryNotFoundError,), f"{page} has no file {file.path} at {file.revision}; its owner moved it"),
        (
            (errors.RepositoryNotFoundError,),
            f"{page} does not exist or is not visible to you; if it is private, {TOKEN}",
        ),
        (
            (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled),
            _unreachable(file, "its client gave up"),
        ),
        ((errors.HfHubHTTPError,), f"the hub did not return {file}: {_one_line(error)}; try again later"),
    ]
    interrupted = f"the download of {file} was interrupted ({_one_line(error)}); run the same command again"
    return next((advice for kinds, advice in advice_by_error if isinstance(error, kinds)), interrupted)


def _unreachable(file: DataFile, reason: str) -> str:
    page = f"https://huggingface.co/datasets/{file.repo}"
    terms = f" (it is gated: accept its terms at {page}, and {TOKEN})" if file.is_gated else ""
    return (
        f"{file} is not on this machine and the hub can't be reached ({reason}); with a network{terms}, run `harness "
        "fetch TASK` once, or set HARNESS_DATA_DIR to a folder that has the file"
    )


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


# --- other URLs -------------------------------------------------------------------------------------------------


def _url_path(file: DataFile) -> Path:
    assert file.url is not None
    if file.url.startswith("file:"):  # on this machine already
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(file.url).path))
    return cache_root() / "files" / file.path


def cache_root() -> Path:
    """Return the folder for files that can be computed or downloaded again."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "harness"


def _from_url(file: DataFile) -> Path:
    """Download to a `.part` file, which a later call continues, then rename it."""
    path = _url_path(file)
    if str(file.url).startswith("file:"):
        raise DataError(f"{path} does not exist")
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    held = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(str(file.url), headers={"Range": f"bytes={held}-"} if held else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            _save(response, part, "ab" if response.status == 206 else "wb")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code < 500:
            part.unlink(missing_ok=True)
        if held and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _from_url(file)  # no bytes follow: the part was complete, or belonged to another file
        raise DataError(f"{file.url} returned {error.code} {error.reason}; its owner may have moved it") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(
            f"{file.url} can't be reached ({_one_line(error)}); with a network, run `harness fetch TASK` once, or set "
            "HARNESS_DATA_DIR to a folder that has the file"
        ) from error
    part.replace(path)
    return path


def _save(response: Any, part: Path, mode: str) -> None:
    expected = response.headers.get("Content-Length")
    written = 0
    with part.open(mode) as stream:
        while piece := response.read(CHUNK_BYTES):
            written += len(piece)
            stream.write(piece)
    if expected is not None and written < int(expected):
        raise ConnectionError(f"only {written} of {expected} bytes arrived")
