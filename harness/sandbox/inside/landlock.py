"""Restrict file access with Landlock: programs may read the interpreter's files and the allowed packages."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence

from . import syscalls

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_DIR, _MAKE_FILE, _REFER, _TRUNCATE = 1 << 7, 1 << 8, 1 << 13, 1 << 14
_USE = _WRITE_FILE | _READ_FILE | _READ_DIR | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_FILE | _REFER | _TRUNCATE
_FIRST_TO_HOLD_WRITING = 3  # before this version, files with read access could be truncated
_NOT_FOR_PROGRAMS = ("site-packages", "dist-packages", "ensurepip", "idlelib", "test", "lib2to3", "config-")
_LIBRARIES = [f"/lib/{syscalls.MACHINE}-linux-gnu", f"/usr/lib/{syscalls.MACHINE}-linux-gnu"]
# Packages are installed here as well: only shared libraries may be read.
_MIXED_LIBRARIES = [f"{sys.base_prefix}/lib", "/lib64", "/usr/lib64", "/usr/local/lib"]
_NULL = "/dev/null"
_FILES = [
    *("/etc/ld.so.cache", "/usr/share/zoneinfo", "/etc/localtime", "/usr/lib/locale/C.utf8"),
    *(_NULL, "/dev/urandom"),
]

STANDARD_LIBRARY = sysconfig.get_path("stdlib")


def mounted(packages: Sequence[str]) -> list[str]:
    """Return the paths mounted in a jail. Not everything below them may be read, see `readable`."""
    wanted = [STANDARD_LIBRARY, *_LIBRARIES, *_MIXED_LIBRARIES, *_FILES, *packages]
    return [path for path in dict.fromkeys(wanted) if os.path.exists(path)]


def readable(packages: Sequence[str]) -> list[str]:
    """Return every path that programs may read, with all below it. site-packages lies within the standard library."""
    modules = [path for path in _entries(STANDARD_LIBRARY) if not os.path.basename(path).startswith(_NOT_FOR_PROGRAMS)]
    libraries = [path for folder in _MIXED_LIBRARIES for path in _entries(folder) if ".so" in os.path.basename(path)]
    wanted = dict.fromkeys([*modules, *libraries, *_LIBRARIES, *_FILES, *packages])
    return [path for path in wanted if os.path.exists(path)]


def _entries(folder: str) -> list[str]:
    return [f"{folder}/{name}" for name in sorted(os.listdir(folder))] if os.path.isdir(folder) else []


def ruleset(readable: Sequence[str], writable: str | None, executable: Sequence[str]) -> int:
    """Return a Landlock ruleset for these paths. Raises OSError without Landlock."""
    version = syscalls.landlock_version()
    if version < 1:
        raise OSError("the kernel has no Landlock")
    handled = (1 << 13) - 1 | (version >= 2) << 13 | (version >= 3) << 14 | (version >= 5) << 15
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = syscalls.landlock_ruleset(handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0, size)
    for path in readable:
        _allow(rules, path, _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE)
    for path in executable:
        _allow(rules, path, _EXECUTE | _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0))
    if writable is not None:
        _allow(rules, writable, _USE)
    _allow(rules, _NULL, _READ_FILE | _WRITE_FILE)
    # The folder itself may be listed, which imports need; that shows names, not contents.
    _allow(rules, STANDARD_LIBRARY, _READ_DIR)
    return rules


def _allow(rules: int, path: str, access: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    syscalls.landlock_allow(rules, access, fd)
    os.close(fd)


def can_hold_writing() -> bool:
    return syscalls.landlock_version() >= _FIRST_TO_HOLD_WRITING
