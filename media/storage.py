"""Files and folders that may be local or on an object store (s3://, gs://, memory://): the same calls for both.

A file is there whole or not there: locally it is written beside its place, flushed and renamed; on an object store it
is one PUT. Paths are strings; a path without `scheme://` is local.
"""

from __future__ import annotations

import glob as _glob
import os
import posixpath
import shutil
import stat as _stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, cast


class Entry(NamedTuple):
    """path; size in bytes; tag that changes when the content does (mtime in ns locally, etag on a store)."""

    path: str
    bytes: int
    tag: str


def is_remote(path: str) -> bool:
    return "://" in path and not path.startswith("file://")


def absolute(path: str) -> str:
    """A local path made absolute, a URL as it is."""
    return path.rstrip("/") if is_remote(path) else os.path.abspath(os.path.expanduser(path.removeprefix("file://")))


def join(path: str, *parts: str) -> str:
    return posixpath.join(path, *parts) if is_remote(path) else os.path.join(path, *parts)


def name(path: str) -> str:
    return posixpath.basename(path.rstrip("/"))


def exists(path: str) -> bool:
    """Raises what a store that cannot be asked raises: not to know is not the same as not to be there."""
    if not is_remote(path):
        return os.path.exists(path)
    fs, inner = opened(path)
    try:
        fs.info(inner)
    except FileNotFoundError:
        return False
    return True


def stat(path: str) -> Entry:
    """Raises FileNotFoundError."""
    if is_remote(path):
        fs, inner = opened(path)
        return _entry(path, fs.info(inner))
    found = os.stat(path)
    return Entry(path, found.st_size, str(found.st_mtime_ns))


def find(path: str, suffix: str = "") -> list[Entry]:
    """Every regular file below a folder (or the file itself), by path; links are followed, pipes and devices left out.

    An absent folder has no files.
    """
    if is_remote(path):
        fs, inner = opened(path)
        with _naming(path):
            found = fs.find(inner, detail=True)
        scheme = path.split("://")[0]
        entries = [_entry(f"{scheme}://{key}", info) for key, info in found.items() if info.get("type") == "file"]
    elif os.path.isdir(path):
        entries = list(_walk(path))
    else:
        entries = [stat(path)] if os.path.isfile(path) else []
    return sorted(entry for entry in entries if entry.path.endswith(suffix))


def expand(pattern: str) -> list[str]:
    """Paths that a glob pattern names; a path that exists or has no wildcard is itself."""
    if is_remote(pattern):
        if not _glob.has_magic(pattern):
            return [pattern]
        fs, inner = opened(pattern)
        return sorted(f"{pattern.split('://')[0]}://{key}" for key in fs.glob(inner))
    return [pattern] if os.path.exists(pattern) or not _glob.has_magic(pattern) else sorted(_glob.glob(pattern))


def open_read(path: str) -> BinaryIO:
    """Seekable and buffered; the caller closes it."""
    if is_remote(path):
        fs, inner = opened(path)
        return cast(BinaryIO, fs.open(inner, "rb"))
    return open(path, "rb")


def read_bytes(path: str) -> bytes:
    """The whole file, in as few requests as the store's client can. Raises FileNotFoundError."""
    if is_remote(path):
        fs, inner = opened(path)
        return fs.cat_file(inner)
    with open_read(path) as file:
        return file.read()


def read_range(path: str, start: int, length: int) -> bytes:
    """Less where the file ends before. From a store in one request, and no more than what is asked for."""
    if is_remote(path):
        fs, inner = opened(path)
        try:
            return fs.cat_file(inner, start=start, end=start + length)
        except OSError:  # stores say in their own ways that a file ends before it starts
            pass
    with open_read(path) as file:
        file.seek(start)
        return file.read(length)


def write_bytes(path: str, data: bytes) -> None:
    with writing(path) as file:
        file.write(data)


@contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """A file that appears at `path` whole when the block ends well, and not at all when it doesn't."""
    folder = None if is_remote(path) else os.path.dirname(os.path.abspath(path))
    if folder:
        os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name(path)}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        put(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def put(local: str, path: str) -> None:
    """Move a finished local file into place: a rename, or one PUT. Across file systems it is copied beside first."""
    if is_remote(path):
        fs, inner = opened(path)
        with _naming(path):
            fs.put_file(local, inner)
        os.remove(local)
        return
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    os.chmod(local, 0o666 & ~_umask())
    try:
        os.replace(local, path)
    except OSError:
        beside = f"{os.path.dirname(os.path.abspath(path))}/.{name(path)}.{os.getpid()}.part"
        shutil.copyfile(local, beside)
        os.replace(beside, path)
        os.remove(local)


def get(path: str, local: str) -> None:
    """Fetch a file whole to a local path (through a temporary name)."""
    with writing(local) as target, open_read(path) as source:
        shutil.copyfileobj(source, target, 1 << 20)


def remove(path: str) -> None:
    """A file or a whole folder; an absent one is fine."""
    if is_remote(path):
        fs, inner = opened(path)
        if exists(path):
            fs.rm(inner, recursive=True)
    elif os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)


def folders(path: str) -> list[str]:
    """Names of the folders directly below one, sorted."""
    if is_remote(path):
        fs, inner = opened(path)
        listed = fs.ls(inner, detail=True) if exists(path) else []
        return sorted(name(item["name"]) for item in listed if item["type"] == "directory")
    if not os.path.isdir(path):
        return []
    return sorted(item.name for item in os.scandir(path) if item.is_dir())


# A store that nobody answers for is given up within 20 s; one that falls silent in mid-answer, within a minute.
S3_PATIENCE = {"connect_timeout": 5, "read_timeout": 20, "retries": {"total_max_attempts": 3, "mode": "standard"}}


def opened(path: str) -> tuple[Any, str]:
    """The store's file system (fsspec's) and the path inside it, without its memory of listings: other processes write there too."""
    import fsspec  # slow to load, and most workspaces are local

    patience = {"config_kwargs": S3_PATIENCE} if path.startswith(("s3://", "s3a://")) else {}
    return fsspec.core.url_to_fs(path, use_listings_cache=False, **patience)


REFUSALS: dict[str, type[OSError]] = {
    "NoSuchBucket": FileNotFoundError,
    "AccessDenied": PermissionError,
    "InvalidAccessKeyId": PermissionError,
    "SignatureDoesNotMatch": PermissionError,
}


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """A store's client names the operation it was refused; the person at the command needs the path.

    Some clients raise their own error, some an OSError that they made of it.
    """
    try:
        yield
    except Exception as error:
        answer = getattr(error, "response", None)
        code = answer.get("Error", {}).get("Code", "") if isinstance(answer, dict) else ""
        kind = REFUSALS.get(code, type(error) if isinstance(error, (FileNotFoundError, PermissionError)) else None)
        if kind is None:
            raise
        raise kind(f"{path}: {error}") from error


def _entry(path: str, info: dict[str, Any]) -> Entry:
    tag = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("created") or ""
    return Entry(path, int(info.get("size") or 0), str(tag).strip('"'))


def _walk(path: str) -> Iterator[Entry]:
    for folder, inner, files in os.walk(path, followlinks=True):
        inner.sort()
        inner[:] = [one for one in inner if not one.startswith(".")]
        for file in files:
            full = os.path.join(folder, file)
            try:
                found = os.stat(full)
            except OSError:
                continue  # a dangling link
            if _stat.S_ISREG(found.st_mode):
                yield Entry(full, found.st_size, str(found.st_mtime_ns))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
