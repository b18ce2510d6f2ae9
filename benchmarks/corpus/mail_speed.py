"""Measure how fast mailboxes become rows, and the memory of the pipeline's process.

    .venv/bin/python -m benchmarks.corpus.mail_speed --messages 2500 10000

Each size runs in a fresh process, with the real sandbox: once with an empty cache, once with a filled one. Messages are
the invented ones of the tests, a third each as .eml, in one mbox and as Maildir; one in ten has an attachment of 1 MB.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from multiprocessing import Process
from pathlib import Path

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.corpus.extraction import extract
from sovereign_pipeline.policy.corpus import Source
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline_tests.corpus import mailboxes

_MESSAGES_PER_THREAD = 5.5
_ATTACHMENT = (
    b"\n--b\nContent-Type: application/pdf\nContent-Transfer-Encoding: base64\n\n" + b"QUJD" * 18 * 4_000 + b"\n--b--\n"
)


def write(messages: int, folder: Path) -> None:
    box = mailboxes.mailbox(threads=round(messages / _MESSAGES_PER_THREAD))
    for letter in box.letters[::10]:
        head, _, body = letter.raw.partition(b"\n\n")
        kept = [line for line in head.split(b"\n") if not line.startswith(b"Content-")]
        of_text = [line for line in head.split(b"\n") if line.startswith(b"Content-")]
        whole = [*kept, b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", *of_text, b"", body]
        letter.raw = b"\n".join(whole) + _ATTACHMENT
    mailboxes.write(box, folder)


def measure(messages: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory, "mail")
        writer = Process(target=write, args=(messages, folder))  # its memory does not count
        writer.start()
        writer.join()
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        source = Source(
            name="mail", kind="mail", path=folder, ours=mailboxes.OURS, licence="invented", retention="none"
        )
        settings = Settings(home=Path(directory, "home"), data=folder, corpus=Path(directory, "corpus"))
        seconds = []
        for _ in range(2):
            start = time.monotonic()
            counts = extract(settings, source, folder, ClassificationLadder(("PUBLIC", "SECRET"))).counts
            seconds.append(round(time.monotonic() - start, 1))
        return {
            "messages": counts["units"] - counts["attachments"], "MB": size >> 20,
            "seconds": seconds[0], "seconds_cached": seconds[1],
            "MB_of_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, "in_rows": counts["in_rows"],
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, nargs="+", default=[2_500, 10_000])
    sizes = parser.parse_args().messages
    if len(sizes) == 1:
        sys.stdout.write(f"{json.dumps(measure(sizes[0]))}\n")
        return
    for each in sizes:
        subprocess.run([sys.executable, "-m", "benchmarks.corpus.mail_speed", "--messages", str(each)], check=True)


if __name__ == "__main__":
    main()
