"""System calls that Python has no function for, on x86-64 and aarch64."""

from __future__ import annotations

import ctypes
import os
import re

MACHINES = ("x86_64", "aarch64")
MACHINE = os.uname().machine
_RELEASE = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
COUNTS_TASKS_BY_NAMESPACE = _RELEASE >= (5, 14)
"""Whether RLIMIT_NPROC in a user namespace counts only its own processes, and not all of the user's."""

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 4, 28, 38, 47
SECBIT_NO_SETUID_FIXUP = 1 << 2
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MS_NOEXEC, MS_RELATIME = 8, 1 << 21
MNT_DETACH = 2

_NUMBERS = {
    "x86_64": {"seccomp": 317, "capset": 126, "pivot_root": 155},
    "aarch64": {"seccomp": 277, "capset": 91, "pivot_root": 41},
}
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on every machine
_SECCOMP_SET_MODE_FILTER = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_fork = ctypes.PyDLL(None, use_errno=True).fork  # keeps the interpreter's lock


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("fd", ctypes.c_int32))


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, number: int, *arguments: object) -> int:
    return _checked(_libc.syscall(ctypes.c_long(number), *arguments), what)


def prctl(option: int, value: int, value_2: int = 0) -> None:
    # Fixed-width arguments: the kernel reads whole registers of a variadic call.
    wide = [ctypes.c_ulong(number) for number in (value, value_2, 0, 0)]
    _checked(_libc.prctl(ctypes.c_int(option), *wide), f"prctl {option}")


def fork() -> int:
    """Fork without the work that Python does afterwards for processes with threads, a third of the cost of `os.fork`.

    For a process that never had a second thread: no lock is held that the child would have to reinitialise.
    """
    return _checked(_fork(), "fork")


def unshare(flags: int) -> None:
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    _checked(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    texts = [text.encode() for text in (source, target, kind)]
    _checked(_libc.mount(*texts, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def unmount(target: str) -> None:
    """Unmount lazily: hidden at once, removed when its last user is gone."""
    _checked(_libc.umount2(target.encode(), ctypes.c_int(MNT_DETACH)), f"unmount {target}")


def pivot_root_here() -> None:
    """Make the working directory the root, and release the old one."""
    _syscall("pivot_root", _NUMBERS[MACHINE]["pivot_root"], b".", b".")
    unmount(".")


_CAPABILITY_HEADER, _NO_CAPABILITIES = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()


def drop_capabilities() -> None:
    _syscall("capset", _NUMBERS[MACHINE]["capset"], _CAPABILITY_HEADER, _NO_CAPABILITIES)


def load_filter(code: bytes) -> None:
    """Install a seccomp filter for this thread and its children. Needs no-new-privileges."""
    program = _FilterProgram(len(code) // 8, code)
    _syscall("seccomp", _NUMBERS[MACHINE]["seccomp"], _SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(program))


def landlock_version() -> int:
    """Return the version of the kernel's Landlock, 0 without it."""
    version: int = _libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(version, 0)


def landlock_ruleset(files: int, net: int, scoped: int, size: int) -> int:
    rules = _Ruleset(files, net, scoped)
    size_t, flags = ctypes.c_size_t(size), ctypes.c_uint32(0)
    return _syscall("landlock_create_ruleset", _LANDLOCK_CREATE, ctypes.byref(rules), size_t, flags)


def landlock_allow(ruleset: int, access: int, path_fd: int) -> None:
    rule = _PathBeneath(access, path_fd)
    _syscall("landlock_add_rule", _LANDLOCK_ADD, ruleset, 1, ctypes.byref(rule), ctypes.c_uint32(0))


def landlock_restrict(ruleset: int) -> None:
    _syscall("landlock_restrict_self", _LANDLOCK_RESTRICT, ruleset, ctypes.c_uint32(0))


def current_core() -> int:
    """Return the core on which this thread runs."""
    return _checked(_libc.sched_getcpu(), "sched_getcpu")
