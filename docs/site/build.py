"""Build all pages as a site that opens from disk, with search, and loads nothing from elsewhere: `make docs`."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COPIED = (
    "*.md",
    "docs/**/*.md",
    "docs/pictures/*.png",
    "docs/proxies/*",
    "data/*/README.md",
    "benchmarks/*/README.md",
    "benchmarks/parliament/parliament.yaml",
)
"""What the site is made of: the pages, and whatever they link to."""
WORKER = "https://unpkg.com/iframe-worker/shim"
"""Zensical loads it, so that search runs on pages that are opened from disk. `worker-from-disk.js` takes its place."""


def build_site(site: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for pattern in COPIED:
            for path in ROOT.glob(pattern):
                target = Path(directory) / "pages" / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        shutil.copyfile(HERE / "zensical.toml", Path(directory) / "zensical.toml")
        command = [str(Path(sys.executable).parent / "zensical"), "build", "--strict"]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, env={"NO_COLOR": "1"})
        if done.returncode != 0:
            sys.exit(done.stdout + done.stderr)
        built = Path(directory) / "site"
        shutil.copyfile(HERE / "worker-from-disk.js", built / "assets" / "worker-from-disk.js")
        for page in built.rglob("*.html"):
            above = "../" * (len(page.relative_to(built).parts) - 1)
            text = page.read_text(encoding="utf-8")
            page.write_text(text.replace(WORKER, f"{above}assets/worker-from-disk.js"), encoding="utf-8")
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(built, site)


if __name__ == "__main__":
    build_site(Path(sys.argv[1]))
