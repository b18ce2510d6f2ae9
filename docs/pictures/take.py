"""Take the README's pictures from the running UI: `.venv/bin/python docs/pictures/take.py`.

Needs Debian's `chromium` and a line that was run (`make demo`). Starts the web server on a free port and stops it.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from sovereign_pipeline.orchestration.instance import prepare_dagster_home
from sovereign_pipeline.settings import PROJECT_ROOT, Settings

HERE = Path(__file__).resolve().parent
PICTURES = {
    "asset-graph.png": ("/assets/registered_adapter?view=lineage&lineageScope=upstream&lineageDepth=9", "1500,760"),
    "sft-adapter.png": ("/assets/sft_adapter?view=overview", "1500,2600"),
    "evaluation-report.png": ("/assets/evaluation_report?view=overview", "1500,2600"),
}


def main() -> None:
    chromium = shutil.which("chromium") or sys.exit("Install Debian's chromium first.")
    prepare_dagster_home(Settings.from_environment())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    webserver = Path(sys.executable).parent / "dagster-webserver"
    server = subprocess.Popen(
        [webserver, "-h", "127.0.0.1", "-p", str(port), "-w", PROJECT_ROOT / "workspace.yaml", "--read-only"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/server_info")
        for name, (path, size) in PICTURES.items():
            with tempfile.TemporaryDirectory() as profile:
                command = [
                    chromium,
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-background-networking",
                    "--force-device-scale-factor=1.6",
                ]
                command += [f"--user-data-dir={profile}", f"--window-size={size}", "--virtual-time-budget=60000"]
                command += [f"--screenshot={HERE / name}", f"http://127.0.0.1:{port}{path}"]
                subprocess.run(command, check=True, timeout=120, stderr=subprocess.DEVNULL, env={**os.environ})
    finally:
        server.terminate()
        server.wait()


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


if __name__ == "__main__":
    main()
