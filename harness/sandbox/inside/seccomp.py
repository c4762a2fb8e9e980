"""The system calls that a program may make, as a seccomp filter. All others are refused.

A program is one process: it can't create, see, signal or trace another; it has no sockets except a pair within the
process; it opens files as Landlock allows, or none. Numbers are those of Linux 6.1's headers for x86-64 and aarch64.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

Code = list[tuple[int, int, int, int]]

# name, number on x86-64, number on aarch64 (- where it does not exist)
_ALLOWED = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69, pwritev 296 70,
preadv2 327 286, pwritev2 328 287, lseek 8 62, close 3 57, close_range 436 436, fstat 5 80, newfstatat 262 79,
stat 4 -, lstat 6 -, statx 332 291, access 21 -, faccessat 269 48, faccessat2 439 439, getcwd 79 17,
getdents64 217 61, mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216,
madvise 28 233, brk 12 214, msync 26 227, fadvise64 221 223, ftruncate 77 46, fsync 74 82, fdatasync 75 83,
futex 202 98, set_robust_list 273 99, get_robust_list 274 100, rseq 334 293, set_tid_address 218 96, exit 60 93,
exit_group 231 94, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136,
rt_sigsuspend 130 133, rt_sigtimedwait 128 137, sigaltstack 131 132, pause 34 -, restart_syscall 219 128,
gettid 186 178, getpid 39 172, getppid 110 173, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177,
getresuid 118 148, getresgid 120 150, getgroups 115 158, getpgrp 111 -, getpgid 121 155, getsid 124 156,
umask 95 166, uname 63 160, sysinfo 99 179, getrusage 98 165, times 100 153, clock_gettime 228 113,
clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101, gettimeofday 96 169, time 201 -,
getitimer 36 102, setitimer 38 103, alarm 37 -, getrandom 318 278, getcpu 309 168, sched_yield 24 124,
sched_getaffinity 204 123, getpriority 140 141, getrlimit 97 163, poll 7 -, ppoll 271 73,
select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -,
epoll_pwait 281 22, eventfd2 290 19, pipe 22 -, pipe2 293 59, dup 32 23, dup2 33 -, dup3 292 24, sendto 44 206,
recvfrom 45 207, shutdown 48 210, getsockname 51 204, getpeername 52 205, getsockopt 55 209
"""
# Allowed on a condition, see `_conditions`.
_CONDITIONAL = """
open 2 -, openat 257 56, clone 56 220, tgkill 234 131, kill 62 129, setrlimit 160 164, prlimit64 302 261,
prctl 157 167, ioctl 16 29, fcntl 72 25, socketpair 53 199, execveat 322 281, readlink 89 -, readlinkat 267 78
"""
# "Not implemented" makes libraries fall back to an older call; "not permitted" would not.
# For programs with a writable folder; Landlock decides where. Not chmod, chown, utime and link, which Landlock does not
# control. Nor fallocate: it can reserve hundreds of gigabytes between two checks of the folder.
_OF_FOLDERS = """
mkdir 83 -, mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276,
chdir 80 49, fchdir 81 50, sendfile 40 71, copy_file_range 326 285
"""
# What an executable needs before its first statement.
_OF_EXECUTABLES = "arch_prctl 158 -"
# A compiler is several processes, and changes the mode of its output.
_OF_COMPILERS = """
fork 57 -, vfork 58 -, execve 59 221, wait4 61 260, waitid 247 95, chmod 90 -, fchmod 91 52, fchmodat 268 53,
setpgid 109 154
"""
_NOT_IMPLEMENTED = "clone3 435 435, openat2 437 437"
_NEWEST_NUMBER = 450

_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_NUMBERS = 0x40000000  # the x32 interface shares x86-64's architecture constant

_ALLOW, _KILL, _EPERM, _ENOENT, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050002, 0x00050026
_SIGKILL, _RLIMIT_CPU = 9, 0
_CLONE_THREAD = 0x10000
_PRCTL_NAMES = (15, 16, 0x53564D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
# Not F_SETOWN and F_SETSIG (signals to others), F_SETLK (a channel between programs) or F_SETPIPE_SZ.
_FCNTLS = (0, 1, 2, 3, 4, 1030, 1034)  # DUPFD, GETFD, SETFD, GETFL, SETFL, DUPFD_CLOEXEC, GET_SEALS
_AF_UNIX, _SOCK_STREAM, _SOCK_FLAGS = 1, 1, 0o2000000 | 0o4000
OWN_PID = 0x7EADBEEF
"""Placeholder in the filter for the pid of the program, which is known only after the fork."""
BINARY_FD = 200
"""Descriptor from which a compiled program is executed, once; above any that it can open itself."""
_AT_EMPTY_PATH = 0x1000


def numbers(table: str, machine: str) -> dict[str, int]:
    column = 1 if machine == "x86_64" else 2
    rows = [row.split() for row in table.replace("\n", " ").split(",")]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def compile_filter(machine: str, *, may_open: bool, kind: str = "python") -> bytes:
    """Return the filter of a machine. Without `may_open` no file can be opened; with it, Landlock controls writing."""
    tables = [_ALLOWED, *([_OF_FOLDERS] if may_open else [])]
    conditions = dict(_conditions(may_open=may_open))
    if kind == "python":
        del conditions["execveat"]
    else:
        tables.append(_OF_EXECUTABLES)
    if kind == "compiler":
        tables.append(_OF_COMPILERS)
        conditions = {name: conditions[name] for name in ("setrlimit", "prlimit64", "prctl", "ioctl", "fcntl")}
        allowed = ("open", "openat", "readlink", "readlinkat", "clone", "kill", "tgkill")
        conditions.update({name: [_ret(_ALLOW)] for name in allowed})
    actions: dict[int, Code] = {
        number: [_ret(_ALLOW)] for table in tables for number in numbers(table, machine).values()
    }
    actions.update({number: [_ret(_ENOSYS)] for number in numbers(_NOT_IMPLEMENTED, machine).values()})
    known = numbers(_CONDITIONAL, machine)
    actions.update({known[name]: code for name, code in conditions.items() if name in known})
    head = [_load(4), _equal(_ARCHITECTURE[machine], 1, 0), _ret(_KILL), _load(0)]
    if machine == "x86_64":
        head += [_at_least(_X32_NUMBERS, 0, 1), _ret(_KILL)]
    code = head + _tree(_intervals(actions))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def with_pid(code: bytes, pid: int) -> bytes:
    return code.replace(struct.pack("=I", OWN_PID), struct.pack("=I", pid))


def _conditions(*, may_open: bool) -> Mapping[str, Code]:
    opening = [_ret(_ALLOW if may_open else _ENOENT)]  # a program may cope with a missing file
    is_unix = [_load_argument(0), _equal(_AF_UNIX, 1, 0), _ret(_EPERM)]
    type_alone: Code = [_load_argument(1), (0x54, 0, 0, ~_SOCK_FLAGS & 0xFFFFFFFF)]
    return {
        **dict.fromkeys(("open", "openat", "readlink", "readlinkat"), opening),  # links in /proc show others' paths
        "execveat": [_load_argument(0), _equal(BINARY_FD, 1, 0), _ret(_EPERM), *_one_of(4, (_AT_EMPTY_PATH,))],
        "clone": [_load_argument(0), _any_bit(_CLONE_THREAD, 0, 1), _ret(_ALLOW), _ret(_EPERM)],
        "tgkill": _to_itself(signal_argument=2),
        "kill": _to_itself(signal_argument=1),
        "setrlimit": [_load_argument(0), _equal(_RLIMIT_CPU, 0, 1), _ret(_EPERM), _ret(_ALLOW)],
        "prlimit64": _own_limits(),
        "prctl": _one_of(0, _PRCTL_NAMES),
        "ioctl": _one_of(1, _IOCTLS),
        "fcntl": _one_of(1, _FCNTLS),
        "socketpair": [*is_unix, *type_alone, _equal(_SOCK_STREAM, 0, 1), _ret(_ALLOW), _ret(_EPERM)],
    }


def _one_of(argument: int, values: Sequence[int]) -> Code:
    tests = [_equal(value, len(values) - place, 0) for place, value in enumerate(values)]
    return [_load_argument(argument), *tests, _ret(_EPERM), _ret(_ALLOW)]


def _to_itself(signal_argument: int) -> Code:
    """Allow a signal to the program itself. SIGKILL ends it as SIGSYS, so that a SIGKILL always comes from outside."""
    own = [_load_argument(0), _equal(OWN_PID, 1, 0), _ret(_EPERM)]
    return [*own, _load_argument(signal_argument), _equal(_SIGKILL, 0, 1), _ret(_KILL), _ret(_ALLOW)]


def _own_limits() -> Code:
    """Allow own limits, except a new one of CPU time: at that the kernel ends a program with SIGKILL."""
    own = [_load_argument(0), _equal(0, 1, 0), _ret(_EPERM)]
    is_cpu = [_load_argument(1), _equal(_RLIMIT_CPU, 1, 0), _ret(_ALLOW)]
    is_new = [_load_argument(2), _equal(0, 0, 2), _load(16 + 8 * 2 + 4), _equal(0, 1, 0), _ret(_EPERM)]
    return [*own, *is_cpu, *is_new, _ret(_ALLOW)]


def _intervals(actions: Mapping[int, Code]) -> list[tuple[int, Code]]:
    """Yield (first number, action from there on); neighbours with the same action are merged."""
    found: list[tuple[int, Code]] = []
    for number in range(_NEWEST_NUMBER + 1):
        action = actions.get(number, [_ret(_EPERM)])
        if not found or found[-1][1] != action:
            found.append((number, action))
    return [*found, (_NEWEST_NUMBER + 1, [_ret(_ENOSYS)])]


def _tree(intervals: Sequence[tuple[int, Code]]) -> Code:
    """Build a binary search: the filter runs for every call, so a linear list would be slow."""
    if len(intervals) == 1:
        return intervals[0][1]
    middle = len(intervals) // 2
    below, above = _tree(intervals[:middle]), _tree(intervals[middle:])
    # Conditional jumps reach 255 instructions, the unconditional one any distance.
    return [_at_least(intervals[middle][0], 0, 1), (0x05, 0, 0, len(below)), *below, *above]


def _load(offset: int) -> tuple[int, int, int, int]:
    return (0x20, 0, 0, offset)


def _load_argument(place: int) -> tuple[int, int, int, int]:
    return _load(16 + 8 * place)  # the low half: every argument tested here is 32 bits wide


def _ret(action: int) -> tuple[int, int, int, int]:
    return (0x06, 0, 0, action)


def _jump(code: int) -> Callable[[int, int, int], tuple[int, int, int, int]]:
    return lambda value, if_so, if_not: (code, if_so, if_not, value)


_equal, _at_least, _any_bit = _jump(0x15), _jump(0x35), _jump(0x45)
