"""The command line of `bundle.pyz`: the same acts as `sovereign bundle`, on a machine that has Python alone."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sovereign_pipeline.bundle.carried.installing import install
from sovereign_pipeline.bundle.carried.reading import Refused, on_one_line
from sovereign_pipeline.bundle.carried.telling import told
from sovereign_pipeline.bundle.carried.verifying import verify


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 done; 1 the bundle is not what was signed; 2 wrong usage."""
    os.umask(0o077)  # what is installed is its own account's alone
    parser = argparse.ArgumentParser("bundle.pyz", description="Verify a bundle, or install from it alone.")
    parser.add_argument("act", choices=("verify", "install"))
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("target", type=Path, nargs="?", help="of install: a folder that is not there yet")
    parser.add_argument("--trust-root", required=True, metavar="SHA256", help="of the first root, from paper")
    parser.add_argument("--base", type=Path, action="append", default=[], help="of a delta: what it adds to")
    parser.add_argument("--newer-than", type=Path, metavar="INDEX", help="refuse a bundle that is no later than this")
    given = parser.parse_args(arguments)
    if (given.act == "install") != (given.target is not None):
        parser.error("install, and it alone, needs a target")
    try:
        bundle = verify(given.bundle, given.trust_root, given.base, newer_than=given.newer_than)
        _print(*told(bundle))
        if given.act == "install":
            _print(f"installed: {install(bundle, given.target, _print)}")
    except Refused as refused:
        sys.stderr.write(f"Refused: {refused.message}\nHint: {refused.hint}\n")
        return 1
    except OSError as error:
        said = on_one_line(f"{error.filename}: {error.strerror}")
        sys.stderr.write(f"{said}\nHint: Check the path, its permissions and the disk.\n")
        return 2
    return 0


def _print(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
