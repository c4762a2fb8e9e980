"""Levels of isolation, from resource limits alone to namespaces, and the packages that programs may import."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path

from harness.core.errors import UsageError
from harness.sandbox.inside import syscalls


class Level(IntEnum):
    """Each level includes the protections of the one before. Untrusted programs need at least `SEALED`."""

    LIMITS = 0
    SEALED = 1
    LANDLOCK = 2
    NAMESPACES = 3

    @property
    def title(self) -> str:
        return self.name.lower()


MEANING: Mapping[Level, str] = {
    Level.LIMITS: "limits alone: a program can read, write and signal whatever this user can",
    Level.SEALED: "limits and seccomp: no other process, no network, no file can be opened after the start",
    Level.LANDLOCK: "the same, and the interpreter's own files can be read, held by Landlock",
    Level.NAMESPACES: "the same in namespaces: an empty root, no network devices, no other process in sight",
}

PACKAGES = ("numpy", "sympy", "mpmath", "sortedcontainers", "networkx")
"""Packages that programs may import besides the standard library, if installed."""

_PRELOADED = """
bisect collections copy datetime decimal fractions functools heapq io itertools json math operator random re statistics
string threading traceback types typing
"""
# When files can't be opened, these are the only ones available.
_PRELOADED_WHEN_SEALED = """
_strptime abc argparse array ast asyncio base64 binascii bz2 cProfile calendar cmath cmd code collections.abc colorsys
concurrent.futures.thread configparser contextlib csv ctypes ctypes.util dataclasses difflib doctest encodings.ascii
encodings.base64_codec encodings.cp1252 encodings.hex_codec encodings.idna encodings.iso8859_15 encodings.latin_1
encodings.punycode encodings.raw_unicode_escape encodings.rot_13 encodings.unicode_escape encodings.utf_16
encodings.utf_16_be encodings.utf_16_le encodings.utf_32 encodings.utf_32_be encodings.utf_32_le encodings.utf_8_sig
enum errno fileinput gc getopt getpass glob graphlib gzip hashlib html html.parser inspect keyword locale logging mmap
multiprocessing numbers optparse pathlib pickle platform pprint pstats queue resource sched secrets select selectors
shlex shutil signal socket stat struct subprocess symtable tempfile textwrap time timeit tokenize tomllib tracemalloc
unicodedata unittest.mock urllib.parse uuid warnings weakref xml.etree.ElementTree zlib zoneinfo
"""


def preloaded(level: Level) -> Sequence[str]:
    """Return the modules loaded before programs run: those that they commonly import."""
    return [*_PRELOADED.split(), *(_PRELOADED_WHEN_SEALED.split() if level == Level.SEALED else ())]


def interpreter() -> str:
    """Return the real executable: a launcher of pyenv or conda in its place costs 0.1 s per start."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def package_places() -> dict[str, str]:
    """Return package -> the file it is imported from."""
    specs = {name: importlib.util.find_spec(name) for name in PACKAGES}
    return {name: spec.origin for name, spec in specs.items() if spec is not None and spec.origin is not None}


def package_folders(places: Mapping[str, str]) -> list[str]:
    """Return the packages' folders, and the folders of shared libraries that wheels install next to them."""
    folders = [Path(place).parent for place in places.values()]
    libraries = [folder.with_name(f"{folder.name}.libs") for folder in folders]
    return [str(folder) for folder in (*folders, *libraries) if folder.is_dir()]


def runtime_is_private(folders: Sequence[str]) -> bool:
    """Return whether users other than the owner can't read the interpreter's files."""
    paths = [Path(sysconfig.get_path("stdlib")), *map(Path, folders)]
    return any(not parent.stat().st_mode & 0o001 for path in paths for parent in (path, *path.parents))


def refuse_other_systems() -> None:
    if sys.platform != "linux" or syscalls.MACHINE not in syscalls.MACHINES:
        raise UsageError(
            f"model-written programs run only on Linux on x86-64 or aarch64, not on {sys.platform} on "
            f"{syscalls.MACHINE}; use a task without code, or such a container"
        )
