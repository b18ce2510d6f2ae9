"""The trace finds whatever leaves this machine, from any process and thread of a command, also where nobody answers."""

import subprocess
import sys
from pathlib import Path

from sovereign_pipeline_tests.tracing import Trace, needs_strace
from sovereign_pipeline_tests.waiting import wait_until

# The addresses are of documentation (RFC 5737, RFC 3849): nobody has them.
PROGRAM = """
import os, socket, sys, threading

def connect(address, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_STREAM) as asked:
        asked.setblocking(False)
        try:
            asked.connect(address)
        except OSError:
            pass

connect(("127.0.0.1", 9))
connect(("127.9.9.9", 9))
connect(("::1", 9), socket.AF_INET6)
connect(("::ffff:127.0.0.1", 9), socket.AF_INET6)
try:
    socket.socket(socket.AF_UNIX).connect("/nobody")
except OSError:
    pass
for planted in sys.argv[1:]:
    if planted == "thread":
        thread = threading.Thread(target=connect, args=(("203.0.113.1", 443),))
        thread.start()
        thread.join()
    elif planted == "fork":
        if os.fork() == 0:
            connect(("203.0.113.2", 443))
            os._exit(0)
        os.wait()
    elif planted == "datagram":
        try:
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"secret", ("203.0.113.3", 53))
        except OSError:
            pass
    else:
        connect(("2001:db8::4", 443), socket.AF_INET6)
"""
PLANTED = {
    "thread": "203.0.113.1",
    "fork": "203.0.113.2",
    "datagram": "203.0.113.3",
    "ipv6": "2001:db8::4",
}


def traced(file: Path, *planted: str) -> Trace:
    trace = Trace(file)
    subprocess.run([*trace.before, sys.executable, "-c", PROGRAM, *planted], check=True)
    wait_until(lambda: "/nobody" in file.read_text(), lambda: "the trace has no end")
    return trace


def test_what_stays_on_this_machine_is_allowed(tmp_path: Path) -> None:
    needs_strace()
    trace = traced(tmp_path / "trace")
    assert trace.elsewhere == []
    assert (trace.local["AF_INET"], trace.local["AF_INET6"], trace.processes) == (2, 2, 1)


def test_each_way_out_is_found(tmp_path: Path) -> None:
    needs_strace()
    trace = traced(tmp_path / "trace", *PLANTED)
    wait_until(lambda: len(trace.elsewhere) == len(PLANTED), lambda: "\n".join(trace.elsewhere))
    for line, address in zip(trace.elsewhere, PLANTED.values(), strict=True):
        assert address in line
    assert trace.processes == 2
    assert "secret" not in trace.file.read_text()
