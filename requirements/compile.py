"""Write the locks of this folder anew: `make lock`. Each pins every distribution by version and SHA-256.

`build.txt` is what installs the rest, `runtime.txt` what an institution installs, `dev.txt` adds what tests and checks
need. torch stands apart, in two builds of one version: `torch-cpu.txt` and `torch-cuda.txt`. `clients.txt` has the
client libraries that a test runs in an environment of their own, since they want older versions. Versions stay as they
are where they still fit; `make lock UPGRADE=1` takes the newest. Needs uv and a package index; no other part does.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYPROJECT = HERE.parent / "pyproject.toml"
# The oldest Python that every pinned version accepts, and the platform whose dependencies are resolved.
RESOLVED_FOR = ("--python-version", "3.11.5", "--python-platform", "x86_64-manylinux_2_28")
EXTRAS = ("postgresql", "kubernetes", "ray", "pkcs11")
"""Extras that `runtime.txt` covers. `zero3` is built from source on the machine with the GPU, and is in no lock."""
BUILD = "pip>=26\nsetuptools>=77"
"""What installs and builds: Python 3.11's own pip does not understand hashes together with extras."""
CLIENTS = "instructor\nlangchain-openai\nlitellm\nllama-index-llms-openai-like>=0.8\npydantic-ai-slim[openai]"
"""Without the bound, the resolver takes a llama-index of 2024 for the sake of the newest pydantic-ai."""
CPU_BUILD = {"2.13.0": ("981442fab184a8791f7724dda9196ffa723bb038c6059d1b04b5f80196e746a6",)}
"""By version of torch: SHA-256 of the CPU builds (x86_64, CPython 3.11) that this project was tested with."""
ONLY_FOR_CUDA = re.compile(r"^(nvidia-|cuda-|triton$)")

HEADER = "# Written by requirements/compile.py. {what}\n"


def resolve(requirements: str, *options: str, like: Path, upgrade: bool = False) -> dict[str, str]:
    """Name of each distribution -> its lines of the lock, with hashes. Versions of the lock `like` are preferred."""
    with tempfile.TemporaryDirectory() as directory:
        lock = Path(directory) / "lock.txt"
        if like.exists() and not upgrade:
            shutil.copyfile(like, lock)
        command = [
            *("uv", "pip", "compile", *options, *RESOLVED_FOR),
            *("--generate-hashes", "--no-strip-extras", "--no-annotate", "--no-header", "--quiet"),
            *("--output-file", str(lock), "-"),
        ]
        done = subprocess.run(command, input=requirements, text=True, capture_output=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        blocks = re.findall(r"^\S.*(?:\n[ \t]+.*)*", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
        return {re.split(r"[\[=]", block)[0]: block for block in blocks}


def version(block: str) -> str:
    return block.partition("==")[2].split()[0]


def write(name: str, what: str, lock: Mapping[str, str]) -> None:
    lines = [lock[distribution] for distribution in sorted(lock)]
    (HERE / name).write_text(HEADER.format(what=what) + "\n".join(lines) + "\n", encoding="utf-8")


def without(lock: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    return {name: block for name, block in lock.items() if name not in names}


def main() -> None:
    upgrade = "--upgrade" in sys.argv
    extras = [option for extra in EXTRAS for option in ("--extra", extra)]
    build = resolve(BUILD, like=HERE / "build.txt", upgrade=upgrade)
    setuptools = f"setuptools=={version(build['setuptools'])}"
    clients = resolve(CLIENTS, like=HERE / "clients.txt", upgrade=upgrade)
    everything = resolve(setuptools, str(PYPROJECT), *extras, "--extra", "dev", like=HERE / "dev.txt", upgrade=upgrade)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as pins:
        pins.write("\n".join(f"{name}=={version(block)}" for name, block in everything.items()))
        pins.flush()
        of_these = ("--constraint", pins.name)
        runtime = resolve(setuptools, str(PYPROJECT), *extras, *of_these, like=HERE / "runtime.txt")
        torch = resolve("torch", *of_these, like=HERE / "torch-cuda.txt")
    for_cuda = [name for name in everything if name == "torch" or ONLY_FOR_CUDA.match(name)]
    release = version(torch["torch"])
    hashes = "".join(f" \\\n    --hash=sha256:{sha256}" for sha256 in CPU_BUILD[release])
    write("build.txt", "What installs the rest.", build)
    write("clients.txt", "Client libraries of the gateway that a test runs, in an environment of their own.", clients)
    write("torch-cuda.txt", "torch as PyPI has it: for CUDA devices, and for CPUs as well.", torch)
    write("torch-cpu.txt", "torch without CUDA.", {**without(torch, for_cuda), "torch": f"torch=={release}{hashes}"})
    write("runtime.txt", "What an institution installs, besides torch.", without(runtime, for_cuda))
    write("dev.txt", "What tests and checks need as well, besides torch.", without(everything, for_cuda))


if __name__ == "__main__":
    main()
