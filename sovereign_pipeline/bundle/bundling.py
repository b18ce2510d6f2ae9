"""The three acts of `sovereign bundle`, with this installation's trust root.

What belongs here: putting the parts together, and refusing in this project's own errors. What does not: any part.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.bundle import contents
from sovereign_pipeline.bundle.carried.installing import install
from sovereign_pipeline.bundle.carried.reading import Refused
from sovereign_pipeline.bundle.carried.verifying import Bundle, verify
from sovereign_pipeline.bundle.packing import pack, tool
from sovereign_pipeline.bundle.publishers import with_publishers
from sovereign_pipeline.bundle.wheels import wheels
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.officers import TRUST, trust_root
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.record.trust_root import load_trust

PUBLISHERS = "publishers"
"""The folder of `data/` that says whose signatures count."""
Torch = Literal["cpu", "cuda"]


def create(
    settings: Settings,
    project: Path,
    out: Path,
    signer: Signer,
    progress: Progress,
    *,
    torch: Torch = "cuda",
    since: Path | None = None,
    signatures: Path | None = None,
) -> Bundle:
    """Pack a bundle, and verify it once more as its receiver will.

    Args:
        project: the checkout of the release.
        since: the index of an earlier bundle, to which this one adds.
        signatures: a folder of publishers' signatures that were fetched.
    """
    trust = trust_root(settings)
    source = contents.release(project)
    carried = [
        *(tool(), source),
        *contents.trust_root_files(settings),
        *contents.configuration(settings),
        *contents.base_models(settings, progress),
        *contents.suites(settings, progress),
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as aside:
        carried += wheels(project / "requirements", (f"torch-{torch}.txt", "runtime.txt"), Path(aside), progress)
        if signatures is not None:
            carried = with_publishers(carried, signatures, settings.data / PUBLISHERS)
        progress(f"packing {len(carried)} files")
        pack(out, carried, signer, trust, since=since)
    progress("verifying")
    return verified(settings, out, None, [since.parent] if since is not None else [])


def verified(
    settings: Settings,
    directory: Path,
    root_sha256: str | None,
    bases: Sequence[Path] = (),
    newer_than: Path | None = None,
) -> Bundle:
    """Verify a bundle, by the code that it carries and by `signing/` as well: what one of them refuses is refused.

    Args:
        root_sha256: of the first root; None takes that of this installation's trust root.

    Where this installation has a trust root, an older one in the bundle is refused. Raises IntegrityError.
    """
    at_least = (1, 1)
    if (settings.data / TRUST).is_dir():
        trust = trust_root(settings)
        if root_sha256 not in (None, trust.root_sha256):
            raise IntegrityError(
                f"The trust root of this installation is {trust.root_sha256}, not {root_sha256}.", "Use that one."
            )
        at_least, root_sha256 = (trust.root_version, trust.targets_version), trust.root_sha256
    elif root_sha256 is None:
        trust_root(settings)  # says that there is none, and what to do
    assert root_sha256 is not None
    try:
        bundle = verify(directory, root_sha256, bases, at_least=at_least, newer_than=newer_than)
    except Refused as refused:
        raise IntegrityError(refused.message, refused.hint) from None
    load_trust(directory / TRUST, root_sha256, at_least=at_least)
    return bundle


def installed(bundle: Bundle, target: Path, progress: Progress) -> Path:
    """Install a verified bundle. Returns the environment's folder. Raises IntegrityError."""
    try:
        return install(bundle, target, progress)
    except Refused as refused:
        raise IntegrityError(refused.message, refused.hint) from None
