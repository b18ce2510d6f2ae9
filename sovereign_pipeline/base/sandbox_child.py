"""Set up the sandbox as its first process, then start the program. `sandbox.py` runs this script.

This script uses only the standard library. It starts without environment variables and without packages. The argument
is the file descriptor for the report. The script reads an order from standard input, one JSON object:

- always `nonce`, `parent` (the process that started this one), `shown` (paths that stay readable) and `limits`;
- optionally `mounted` (directory of this machine by the path at which the sandbox shows it);
- for a Python program: `program` (its source), `program_nonce` (a second nonce), `function` (the name of the function
  to call after the source has run, or null) and `argument` (that function's argument);
- for a command: `command` (an executable file with its arguments), `given` (its standard input), `output` (the
  descriptor of its standard output) and `placed` (the content of each file in /tool, in base64, by file name).

The report is one of these. An empty or any other report means that the run failed:

- `program_nonce` with "passed", with "returned:" and the function's result as JSON, or with "raised:" and the
  exception's class and line;
- `nonce` with "ended:" and a command's exit status, or the negative number of a signal;
- `nonce` with the reason why a limit could not be set.

There are three processes. This script's process creates the namespaces. Its child is the init of the process namespace
and mounts the root. The grandchild drops its privileges and executes the program or the command.
"""

import base64
import ctypes
import errno
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 0x1000, 0x4000, 0x40000
MNT_DETACH, AT_FDCWD, AT_RECURSIVE = 2, -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 22, 23, 24, 38
PAGE = 4096  # bytes; a file on a tmpfs takes whole pages, and no machine has smaller ones
SYS_MOUNT_SETATTR = 442  # the same number on every architecture (asm-generic)
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

# Rejected system calls, by their numbers on these machines. RLIMIT_AS limits only mapped memory. These calls allocate
# memory that is not mapped.
MACHINES = ("x86_64", "aarch64")
REFUSED = {
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "memfd_create": (319, 279),
    "vmsplice": (278, 75),  # a pipe keeps a page, and thereby the 2 MiB huge page that contains it
    "io_uring_setup": (425, 425),  # its memory and bpf's count towards RLIMIT_MEMLOCK only in some kernels
    "bpf": (321, 280),
    "inotify_init": (253, None),  # an inotify queue keeps thousands of unread events
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    # Rejected for another reason: the account's key rings are readable in every namespace and outlive the run.
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
SYS_MMAP = (9, 222)  # its flags are the fourth argument
MAP_SHARED, MAP_ANONYMOUS = 0x01, 0x20

# A filter of system calls (linux/filter.h, linux/seccomp.h, linux/audit.h).
LOAD, AND, IF_EQUAL, IF_AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
CALL_NUMBER, CALL_MACHINE, FOURTH_ARGUMENT = 0, 4, 40  # offsets in seccomp_data; the last: of the low 32 bits
AUDIT_ARCH = (0xC000003E, 0xC00000B7)
X32_CALLS = 0x40000000
SECCOMP_MODE_FILTER, SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 2, 0x00050000, 0x7FFF0000

# Directories of installed packages inside the directory of the standard library.
PACKAGES = ("site-packages", "dist-packages")

# Exit status of a run whose program used up its processor time. Read by `sandbox.py`.
OUT_OF_TIME = 3

# Directory of a command's files, its environment, and its exit status if it cannot be executed.
TOOL = "/tool"
COMMAND_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "PYTHONHASHSEED": "0"}
NOT_EXECUTED = 126

# A sandbox started by root runs the program as this account: the kernel exempts root from the limit on processes.
NOBODY = 65534

# Python source that runs the program. In its memory the program can find only its nonce and the report's descriptor.
RUNNER = """
import json, os, sys
order = json.loads(sys.stdin.buffer.read())
os.close(0)
def where(error):
    lines, trace = [], error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<program>":
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f"{type(error).__name__}" + (f" in line {lines[-1]}" if lines else "")
def run(program, nonce, report, function, argument, most):
    answer = ":passed"
    try:
        scope = {"__name__": "program"}
        exec(compile(program, "<program>", "exec"), scope)
        if function is not None:
            answer = ":returned:" + json.dumps(scope[function](argument), allow_nan=False)
            if len(answer) > most:
                raise OverflowError
    except BaseException as error:
        if function is None or isinstance(error, SystemExit):
            os._exit(1)
        answer = (":raised:" + where(error))[:200]
    os.write(report, (nonce + answer).encode())
    os._exit(0)
run(*(order.pop(name) for name in ("program", "nonce", "report", "function", "argument", "most")))
"""

Order = dict[str, Any]
Does = Callable[[Order, int], None]

libc = ctypes.CDLL(None, use_errno=True)


def called(what: str, *arguments: Any) -> int:
    """Call a C library function that returns -1 on an error. Raises an OSError that names the function."""
    result: int = getattr(libc, what)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what} {_name(arguments)}: {os.strerror(number)}")
    return result


def _name(arguments: tuple[Any, ...]) -> str:
    return " ".join(each.decode() for each in arguments if isinstance(each, bytes))


def make_namespaces(order: Order, report: int) -> None:
    """Create user, mount, process, network, IPC and host-name namespaces. Forbid further user namespaces inside."""
    is_root = order["is_root"]
    maps = {"uid_map": f"0 {os.getuid()} 1\n", "gid_map": f"0 {os.getgid()} 1\n"}
    if is_root:
        maps = {name: f"{line}1 {NOBODY} 1\n" for name, line in maps.items()}
    told, tell = os.pipe()
    me, helper = os.getpid(), os.fork() if is_root else 0
    if is_root and helper == 0:  # the helper stays outside the namespace, where it may map another account
        os.close(tell)
        os.read(told, 1)
        os._exit(0 if _map(me, maps) else 1)
    called(
        "unshare",
        CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS,
    )
    os.close(tell)
    if is_root:
        if os.waitpid(helper, 0)[1] != 0:
            raise OSError("this account may not map another account into a user namespace")
    else:
        Path("/proc/self/setgroups").write_text("deny")
        if not _map(me, maps):
            raise OSError("this account may not map itself into a user namespace")
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


def _map(pid: int, maps: dict[str, str]) -> bool:
    try:
        for name, lines in maps.items():
            Path(f"/proc/{pid}/{name}").write_text(lines)
    except OSError:
        return False
    return True


def make_root(shown: list[str], placed: dict[str, str] | None, limits: dict[str, Any], mounted: dict[str, str]) -> None:
    """Mount a read-only root with the shown and placed files, and an empty /tmp that disappears with the run."""
    contents = {name: base64.b64decode(text) for name, text in (placed or {}).items()}
    size = (1 << 20) + sum(len(content) + PAGE for content in contents.values())
    called("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    os.umask(0o022)  # the program runs under another account, which must be able to enter these directories
    root = "/proc"  # exists on every Linux, and no shown path lies below it
    options = f"size={size},nr_inodes=1k,mode=755"
    called("mount", b"tmpfs", root.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options.encode())
    for path in shown:
        _show(path, root, path)
    for at, path in mounted.items():
        _show(path, root, at)
    if placed is not None:
        _place(contents, root)
    Path(root, "tmp").mkdir()
    options = f"size={limits['disk_bytes']},nr_inodes={limits['files'] + 1},mode=777"
    called("mount", b"tmpfs", f"{root}/tmp".encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options.encode())
    os.chdir(root)
    called("syscall", SYS_PIVOT_ROOT[os.uname().machine], b".", b".")
    called("umount2", b".", MNT_DETACH)
    _make_read_only("/", 0)
    os.chdir("/tmp")


def _show(path: str, root: str, at: str) -> None:
    target = Path(root + at)
    if target.exists():  # the target lies in a directory that is shown already
        return
    if Path(path).is_dir():
        target.mkdir(parents=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    called("mount", path.encode(), str(target).encode(), None, MS_BIND | MS_REC, None)
    for packages in PACKAGES:
        if (target / packages).is_dir():
            covered = str(target / packages).encode()
            called("mount", b"tmpfs", covered, b"tmpfs", MS_NOSUID | MS_NODEV, b"nr_inodes=1")
    _make_read_only(str(target), AT_RECURSIVE)


def _place(contents: dict[str, bytes], root: str) -> None:
    """Write the command's `placed` files into the new root, and add /dev/null, which shells open."""
    Path(root + TOOL).mkdir()
    for name, content in contents.items():
        file = Path(root + TOOL, name)
        file.write_bytes(content)
        file.chmod(0o555)
    null = Path(root + "/dev/null")
    null.parent.mkdir(exist_ok=True)
    null.touch()
    called("mount", b"/dev/null", str(null).encode(), None, MS_BIND, None)
    _make_read_only(str(null), 0, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID)


def _make_read_only(
    path: str, flags: int, what: int = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
) -> None:
    attributes = (ctypes.c_uint64 * 4)(what, 0, 0, 0)
    called("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, attributes, ctypes.sizeof(attributes))


def give_up_everything(limits: dict[str, Any], is_root: bool) -> None:
    """Drop every capability permanently, change the account if this process is root, and set the kernel's limits."""
    called("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    capability = 0
    while libc.prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:  # -1 after this kernel's last capability
        called("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
        capability += 1
    if is_root:
        os.setgroups([])
        os.setresgid(1, 1, 1)
        os.setresuid(1, 1, 1)
    for name, value in {
        "RLIMIT_CORE": 0,
        "RLIMIT_AS": limits["memory_bytes"],
        "RLIMIT_FSIZE": limits["file_bytes"],
        "RLIMIT_NPROC": limits["processes"],
        "RLIMIT_NOFILE": 32,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_MEMLOCK": 0,
    }.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    # At the soft limit the kernel sends SIGXCPU, by which `init` recognises a timeout; at the hard limit it kills.
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"], limits["cpu_seconds"] + 1))


def refuse_calls() -> None:
    """Make the kernel answer EPERM to the calls in REFUSED and to requests for anonymous shared memory, whose size no
    limit covers."""
    machine = MACHINES.index(os.uname().machine)
    refuse = (RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.EPERM)
    shared = MAP_SHARED | MAP_ANONYMOUS
    # Each tuple: an instruction, the number of instructions to skip if it is true and if it is false, and its value.
    # Other architectures that this kernel accepts (i386, x32) number their calls differently, so all their calls are
    # rejected.
    instructions = [(LOAD, 0, 0, CALL_MACHINE), (IF_EQUAL, 1, 0, AUDIT_ARCH[machine]), refuse]
    instructions += [(LOAD, 0, 0, CALL_NUMBER), (IF_AT_LEAST, 0, 1, X32_CALLS), refuse]
    for number in filter(None, (numbers[machine] for numbers in REFUSED.values())):
        instructions += [(IF_EQUAL, 0, 1, number), refuse]
    instructions += [(IF_EQUAL, 0, 4, SYS_MMAP[machine]), (LOAD, 0, 0, FOURTH_ARGUMENT), (AND, 0, 0, shared)]
    instructions += [(IF_EQUAL, 0, 1, shared), refuse, (RETURN, 0, 0, SECCOMP_RET_ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in instructions))
    filter_of_calls = ctypes.create_string_buffer(struct.pack("HP", len(instructions), ctypes.addressof(code)))
    called("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_of_calls)


def become_program(order: Order, report: int) -> None:
    """Replace this process by the command, or by a Python interpreter that runs the program."""
    command: list[str] | None = order["command"]
    if command is None:
        passed = {name: order[name] for name in ("program", "function", "argument", "most")}
        # The program gets another nonce than the set-up, so that it cannot forge a report of the set-up for users.
        _hand_over(json.dumps({**passed, "nonce": order["program_nonce"], "report": report}))
    else:
        _hand_over(order["given"])
        os.dup2(order["output"], 1)
        os.close(order["output"])
        os.set_inheritable(report, False)  # `init` reports the exit status
    give_up_everything(order["limits"], order["is_root"])
    if command is None:
        # A fixed hash seed, so that the order of a set does not change a verdict.
        python = os.path.realpath(sys.executable)
        refuse_calls()  # last, because `_hand_over` uses one of these calls
        os.execve(python, [python, "-P", "-s", "-S", "-B", "-c", RUNNER], {"PYTHONHASHSEED": "0"})
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these signals, and a command would inherit this
        signal.signal(ignored, signal.SIG_DFL)
    refuse_calls()
    try:
        os.execve(command[0], command, COMMAND_ENVIRONMENT)
    except OSError:
        os._exit(NOT_EXECUTED)


def _hand_over(text: str) -> None:
    """Make a text of any length the standard input. Call this before the limit on file sizes is set."""
    handed = os.memfd_create("order")
    with os.fdopen(os.dup(handed), "wb") as stream:  # a stream writes the whole text; os.write may write a part
        stream.write(text.encode())
    os.lseek(handed, 0, os.SEEK_SET)
    os.dup2(handed, 0)
    os.close(handed)


def init(order: Order, report: int) -> None:
    """Run as the process namespace's init. When init ends, the kernel kills every process left in the namespace."""
    called("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    make_root(order["shown"], order["placed"], order["limits"], order.get("mounted", {}))
    program = in_child(become_program, order, report)
    ended, status = os.wait()
    while ended != program:  # orphans of the program become children of this process
        ended, status = os.wait()
    if order["command"] is not None:
        os.write(report, f"{order['nonce']}:ended:{os.waitstatus_to_exitcode(status)}".encode())
    os._exit(OUT_OF_TIME if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU else 0)


def in_child(does: Does, order: Order, report: int) -> int:
    pid = os.fork()
    if pid == 0:
        reporting(does, order, report)
        os._exit(0)
    return pid


def reporting(does: Does, order: Order, report: int) -> None:
    """Run a step of the set-up. If it fails, report the reason and end this process before any program starts."""
    try:
        does(order, report)
    except (OSError, KeyError, ValueError) as error:
        os.write(report, f"{order['nonce']}:{error}".encode()[:500])
        os._exit(1)


def main() -> None:
    report = int(sys.argv[1])
    order = json.loads(sys.stdin.buffer.read())
    order["is_root"] = os.getuid() == 0
    reporting(make_namespaces, order, report)
    # Set this only now: the kernel clears it when a process gains privileges. The parent may have been killed
    # meanwhile.
    called("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != order["parent"]:
        os._exit(1)
    _, status = os.waitpid(in_child(init, order, report), 0)
    os._exit(os.waitstatus_to_exitcode(status) % 256)


if __name__ == "__main__":
    main()
