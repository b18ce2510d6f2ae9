"""The sandbox's limit on memory, mapped and not mapped."""

import textwrap

import pytest

from sovereign_pipeline.sandbox.sandbox import Limits
from sovereign_pipeline_tests.sandbox.programs import outcome_of


def test_memory_is_limited() -> None:
    asks_for = """
        try:
            bytearray({})
        except MemoryError:
            pass
        else:
            raise SystemExit
    """
    assert outcome_of(asks_for.format(4 << 30)) == "passed"
    assert outcome_of(asks_for.format(16 << 20)) == "failed"


# Each program that follows it keeps 20 to 100 MiB of memory without having it mapped.
KEEPS = """
import ctypes, errno, os

libc = ctypes.CDLL(None, use_errno=True)
PIECES, SIZE, PAGE, READ_WRITE, MAY_MOVE = range(4), 24 << 20, 4096, 3, 1
PRIVATE, SHARED, ANONYMOUS, HUGE = 2, 1, 32, 14
addresses = {"mmap", "mremap", "shmat"}

def call(name, *arguments):
    function = getattr(libc, name)
    function.restype = ctypes.c_long if name in addresses else ctypes.c_int
    result = function(*(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result

def written(address, piece):
    ctypes.memset(address, 65 + piece, SIZE)
    return address

def is_there(address, piece):
    assert ctypes.string_at(address + SIZE - 1, 1) == bytes([65 + piece])
    return address
"""

DETACHED_SEGMENTS = """
segments = [call("shmget", 0, SIZE, 0o1600) for _ in PIECES]
for piece, segment in enumerate(segments):
    call("shmdt", written(call("shmat", segment, None, 0), piece))
for piece, segment in enumerate(segments):
    call("shmdt", is_there(call("shmat", segment, None, 0), piece))
"""

SHARED_WITHOUT_A_FILE = """
pages = []
for piece in PIECES:
    address = written(call("mmap", None, SIZE, READ_WRITE, SHARED | ANONYMOUS, -1, 0), piece)
    call("munmap", address + PAGE, SIZE - PAGE)
    pages.append(address)
for piece, page in enumerate(pages):
    address = is_there(call("mremap", page, PAGE, SIZE, MAY_MOVE), piece)
    call("munmap", address + PAGE, SIZE - PAGE)
"""

GIVEN_TO_A_PIPE = """
pipes = [os.pipe() for _ in range(4)]
for number in range(40):  # a small pipe holds sixteen pages, and with each of them its 2 MiB
    address = call("mmap", None, 4 << 20, READ_WRITE, PRIVATE | ANONYMOUS, -1, 0)
    start = address + -address % (2 << 20)
    libc.madvise(ctypes.c_long(start), ctypes.c_long(2 << 20), HUGE)
    ctypes.memset(start, 65, 2 << 20)
    call("vmsplice", pipes[number % 4][1], (ctypes.c_uint64 * 2)(start, PAGE), 1, 0)
    call("munmap", address, 4 << 20)
"""

FILES_WITHOUT_A_NAME = """
files = [os.memfd_create("file") for _ in range(20)]
for file in files:
    assert os.write(file, b"x" * (1 << 20)) == 1 << 20
"""

MESSAGES = """
message = (ctypes.c_long * 1025)(1)
for _ in range(10_000):
    call("msgsnd", call("msgget", 0, 0o1600), message, 8192, 0)
"""

SEMAPHORES = """
for _ in range(1_000):
    call("semget", 0, 1_000, 0o1600)
"""

EVENTS = """
for _ in range(20):
    call("inotify_add_watch", call("inotify_init1", 0), b"/tmp", 0xFFF)
names = ["a" * 255, "b" * 255]
open(names[0], "w").close()
for _ in range(4_000):
    os.rename(*names)
    names.reverse()
"""


@pytest.mark.parametrize(
    "keeps",
    [DETACHED_SEGMENTS, SHARED_WITHOUT_A_FILE, GIVEN_TO_A_PIPE, FILES_WITHOUT_A_NAME, MESSAGES, SEMAPHORES, EVENTS],
    ids=["segments", "shared", "pipe", "files", "messages", "semaphores", "events"],
)
def test_memory_is_limited_also_when_it_is_not_mapped(keeps: str) -> None:
    tries = "try:\n" + textwrap.indent(keeps, "    ") + "except PermissionError: pass\nelse: raise SystemExit"
    assert outcome_of(KEEPS + tries, Limits(memory_bytes=64 << 20)) == "passed"
