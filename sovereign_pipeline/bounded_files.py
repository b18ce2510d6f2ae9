"""Reading a small file whose place others can write to: no link is followed, nothing waits, and no size fills memory.

What belongs here: that reading. What does not: what a file says.
"""

import os
from pathlib import Path

from sovereign_pipeline.errors import IntegrityError


def read_bounded(path: Path, most: int, hint: str) -> bytes:
    """The bytes of a file, `most` of them. Raises IntegrityError, with the hint, for a larger one or none to read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise IntegrityError(f"{path}: the file cannot be read ({type(error).__name__}).", hint) from None
    if len(content) > most:
        raise IntegrityError(f"{path}: the file is larger than {most:,} bytes.", hint)
    return content
