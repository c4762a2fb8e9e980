"""Namespaces around a worker: users, processes, mounts, network, message queues and host name.

Entered once per worker. Inside, the root is an empty file system with the readable paths mounted read-only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from . import caller, syscalls, tmpdir

NOBODY = 65534
_ALL = (
    syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
)
_NEW_ROOT = "/tmp"  # exists everywhere, and is covered in our own mount namespace only
_READ_ONLY = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY | syscalls.MS_NOSUID


def enter(paths: Sequence[str], requests: int) -> int:
    """Continue as process 1 of new namespaces, as nobody if the caller was root.

    The calling process stays outside, see `leave_outside`. Returns a descriptor of the process namespace, to return to
    after each program was given its own. Raises OSError if the kernel or its policy does not allow it.
    """
    _unshare_mapped()
    leave_outside(requests)
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    _change_root(paths)
    if os.geteuid() == 0:
        become_nobody(keep_capabilities=True)
    return own


def leave_outside(requests: int) -> None:
    """Continue as a child of the calling process, visible to its parent, which calls functions as `requests` asks."""
    has_begun, beginning = os.pipe()
    if child := os.fork():
        caller.stay_outside(child, beginning, requests)
    os.close(beginning)
    os.close(requests)
    os.read(has_begun, 1)  # the root, shared by both, is changed only when the other process no longer needs it
    os.close(has_begun)


def become_nobody(*, keep_capabilities: bool = False) -> None:
    if keep_capabilities:
        syscalls.prctl(syscalls.PR_SET_SECUREBITS, syscalls.SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # otherwise /proc/self would belong to root


def _unshare_mapped() -> None:
    """Create namespaces whose users are mapped by a helper process that stays outside."""
    user, group = os.geteuid(), os.getegid()
    ready, go = os.pipe()
    helper = os.fork()
    if helper == 0:
        status = 1
        try:
            os.close(go)
            if os.read(ready, 1):
                _write_maps(os.getppid(), user, group)
                status = 0
        finally:
            os._exit(status)
    try:
        syscalls.unshare(_ALL)
        os.write(go, b"u")
    finally:
        os.close(ready)
        os.close(go)
        failed = os.waitpid(helper, 0)[1]
    if failed:
        raise OSError("the users of a new namespace can't be mapped")


def _write_maps(pid: int, user: int, group: int) -> None:
    nobody = [NOBODY] if user == 0 else []
    if user != 0:
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/gid_map", "".join(f"{g} {g} 1\n" for g in [group, *nobody]))
    _write(f"/proc/{pid}/uid_map", "".join(f"{u} {u} 1\n" for u in [user, *nobody]))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, text.encode())
    os.close(fd)


def _change_root(paths: Sequence[str]) -> None:
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    sources = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths}
    syscalls.mount("none", _NEW_ROOT, "tmpfs", syscalls.MS_NOSUID, "size=1m,mode=755")
    os.chdir(_NEW_ROOT)
    for path, source in sources.items():
        target = f"{_NEW_ROOT}{path}"
        os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
        if stat.S_ISDIR(os.fstat(source).st_mode):  # not by its path, which our own view may already cover
            os.makedirs(target, mode=0o755, exist_ok=True)
        elif not os.path.exists(target):
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        syscalls.mount(f"/proc/self/fd/{source}", target, "", syscalls.MS_BIND)
        syscalls.mount("none", target, "", _READ_ONLY | _locked_flags(target))
        os.close(source)
    os.makedirs(f"{_NEW_ROOT}{tmpdir.HOLDER}/here", mode=0o755)
    syscalls.pivot_root_here()
    os.chdir("/")
    syscalls.mount("none", "/", "", _READ_ONLY)


def _locked_flags(path: str) -> int:
    """Return flags that a mount already has: the kernel refuses a change that would drop them."""
    flags = os.statvfs(path).f_flag
    same = os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME
    return flags & same | (syscalls.MS_RELATIME if flags & os.ST_RELATIME else 0)
