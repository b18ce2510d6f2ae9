"""Measure how fast mailboxes become rows, and the memory of the pipeline's process.

    .venv/bin/python -m benchmarks.corpus.mail_speed --messages 2500 10000 40000

Each size and kind runs in a fresh process, with the real sandbox: once with an empty cache, once with a filled one.
Messages are the invented ones of the tests, in one mbox or as Maildir; one in ten has an attachment of 300 kB.
`MB_of_memory` is the pipeline's process, `MB_of_child` the largest process of the sandbox.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from itertools import product
from multiprocessing import Process
from pathlib import Path

import psutil

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.corpus.extraction import extract
from sovereign_pipeline.policy.corpus import Source
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline_tests.corpus import mailboxes

KINDS = ("maildir", "mbox")
_MESSAGES_PER_THREAD = 5.5
_ATTACHMENT = (
    b"\n--b\nContent-Type: application/pdf\nContent-Transfer-Encoding: base64\n\n" + b"QUJD" * 18 * 4_000 + b"\n--b--\n"
)


def write(messages: int, kind: str, folder: Path) -> None:
    box = mailboxes.mailbox(threads=round(messages / _MESSAGES_PER_THREAD))
    for letter in box.letters[::10]:
        head, _, body = letter.raw.partition(b"\n\n")
        kept = [line for line in head.split(b"\n") if not line.startswith(b"Content-")]
        of_text = [line for line in head.split(b"\n") if line.startswith(b"Content-")]
        whole = [*kept, b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", *of_text, b"", body]
        letter.raw = b"\n".join(whole) + _ATTACHMENT
    folder.mkdir()
    if kind == "mbox":
        with (folder / "archive.mbox").open("wb") as archive:
            for letter in box.letters:
                archive.write(mailboxes.in_mbox(letter.raw))
        return
    (folder / "cur").mkdir()
    for letter in box.letters:
        (folder / "cur" / f"{letter.number:06d}.M1.host:2,S").write_bytes(letter.raw)


def measure(messages: int, kind: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory, "mail")
        writer = Process(target=write, args=(messages, kind, folder))  # its memory does not count
        writer.start()
        writer.join()
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        source = Source(
            name="mail", kind="mail", path=folder, ours=mailboxes.OURS, licence="invented", retention="none"
        )
        settings = Settings(home=Path(directory, "home"), data=folder, corpus=Path(directory, "corpus"))
        seconds, of_children = list[float](), list[int]()
        threading.Thread(target=_sample, args=(of_children,), daemon=True).start()
        for _ in range(2):
            start = time.monotonic()
            counts = extract(settings, source, folder, ClassificationLadder(("PUBLIC", "SECRET"))).counts
            seconds.append(round(time.monotonic() - start, 1))
        return {
            "kind": kind, "messages": counts["units"] - counts["attachments"], "MB": size >> 20, "seconds": seconds[0],
            "seconds_cached": seconds[1], "MB_of_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            "MB_of_child": max(of_children) >> 20, "in_rows": counts["in_rows"],
        }  # fmt: skip


def _sample(of_children: list[int]) -> None:
    while True:
        with suppress(psutil.NoSuchProcess):
            of_children += [each.memory_info().rss for each in psutil.Process().children(recursive=True)]
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, nargs="+", default=[2_500, 10_000, 40_000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    asked = parser.parse_args()
    if len(asked.messages) == len(asked.kinds) == 1:
        sys.stdout.write(f"{json.dumps(measure(asked.messages[0], asked.kinds[0]))}\n")
        return
    for kind, each in product(asked.kinds, asked.messages):
        command = [sys.executable, "-m", "benchmarks.corpus.mail_speed", "--messages", str(each), "--kinds", kind]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
