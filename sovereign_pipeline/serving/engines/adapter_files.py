"""The two files of an adapter that an engine loads, read once.

What belongs here: that alone. What does not: whether an engine can compute with them.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from sovereign_pipeline.base.errors import EngineRefused
from sovereign_pipeline.training.tuned_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS


def read_adapter(directory: Path, files: Mapping[str, str]) -> dict[str, bytes]:
    """Configuration and weights, read once, so that what was hashed is what is loaded. Raises EngineRefused."""
    found: dict[str, bytes] = {}
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        path = directory / name
        try:
            found[name] = path.read_bytes()
        except OSError as error:
            raise EngineRefused(f"{path} cannot be read ({type(error).__name__}).", "Restore it from a copy.") from None
        if files and files.get(name) != sha256(found[name]).hexdigest():
            raise EngineRefused(f"{path}: the bytes are not the recorded ones.", "Restore the file from a copy.")
    return found
