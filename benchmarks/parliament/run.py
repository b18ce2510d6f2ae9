"""Take a corpus that nobody of this project wrote through the whole chain, with QLoRA, to a registered adapter.

    .venv/bin/python benchmarks/parliament/run.py --questions DIR [--home DIR]

DIR holds `wq_2023-12.jsonl.gz` and `wq_2024-07.jsonl.gz`: written questions and answers of the House of Commons as its
API gives them, one JSON object a line. The data is not part of this project.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
FILES = ("wq_2023-12.jsonl.gz", "wq_2024-07.jsonl.gz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--home", type=Path, default=PROJECT / ".sovereign" / "parliament")
    arguments = parser.parse_args()
    missing = [name for name in FILES if not (arguments.questions / name).is_file()]
    if missing:
        sys.exit(f"{arguments.questions} does not hold {', '.join(missing)}. Give their folder with --questions.")
    data = institution_with_questions(arguments.home / "data", arguments.questions)
    environment = {**os.environ, "SOVEREIGN_HOME": str(arguments.home), "SOVEREIGN_DATA": str(data)}
    environment |= {f"SOVEREIGN_{root.upper()}": f"{arguments.home}-{root}" for root in ("corpus", "keys", "vault")}
    sovereign = str(Path(sys.executable).parent / "sovereign")
    public_key = arguments.home / "vault.pub"
    subprocess.run([sovereign, "models", "fetch", "smollm2-135m-instruct"], env=environment, check=True)
    if not public_key.exists():
        private_key = arguments.home.with_name(f"{arguments.home.name}-offline") / "vault.key"
        keygen = [f"{sovereign}-vault", "keygen", "--private", str(private_key), "--public", str(public_key)]
        subprocess.run(keygen, env=environment, check=True)
    demonstration = [f"{sovereign}-trust", "demonstration", str(data / "trust"), f"{arguments.home}-keys"]
    subprocess.run(demonstration, env=environment, check=True)
    sys.exit(subprocess.run([sovereign, "run", "parliament"], env=environment).returncode)


def institution_with_questions(data: Path, questions: Path) -> Path:
    """A data root with the project's suites, red team and model cards, this benchmark's recipe, and the two files."""
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(PROJECT / "data", data, ignore=shutil.ignore_patterns("sources", "lines", "trust"))
    shutil.copyfile(HERE / "institution.yaml", data / "institution.yaml")
    for directory in ("lines", "sources"):
        (data / directory).mkdir()
    shutil.copyfile(HERE / "parliament.yaml", data / "lines" / "parliament.yaml")
    for name in FILES:
        (data / "sources" / name).symlink_to(questions.resolve() / name)
    return data


if __name__ == "__main__":
    main()
