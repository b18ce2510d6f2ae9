"""Measure the split: time, memory, recall and crossings on generated corpora, and grouped questions on a real one.

    .venv/bin/python benchmarks/corpus/split_scale.py --rows 10000 100000 1000000 --questions DIR --out DIR

For each number of rows a corpus of invented letters is written, the real stage leakage_safe_split is produced and its
gate asked, each in a fresh process, and what was planted is looked for. --questions: a folder with
`wq_2023-12.jsonl.gz` and `wq_2024-07.jsonl.gz`, written questions of the House of Commons as its API gives them; the
data is not part of this project. Results go to --out as split_scale.json and split_scale.md. About 4 GB of disk are
needed under --out for a million rows; they are freed at the end.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from sovereign_pipeline.artifacts.gates import evaluate_gates
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.production import produce
from sovereign_pipeline.artifacts.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.corpus.document import read_documents, write_jsonl
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS, RAW_CORPUS
from sovereign_pipeline.settings import Settings, go_offline
from sovereign_pipeline.split.files import HELD_OUT, PROOF, TRAIN
from sovereign_pipeline.split.grouping import components
from sovereign_pipeline.split.near_duplicates import near_duplicates
from sovereign_pipeline.split.reading import read_columns
from sovereign_pipeline.split.shingles import Rarity
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.workplace import open_workplace

PARLIAMENT = Path(__file__).resolve().parent.parent / "parliament"
QUESTION_FILES = ("wq_2023-12.jsonl.gz", "wq_2024-07.jsonl.gz")

SEED = 20
WORDS_PER_SHINGLE = 5
BRUTE_FORCE_UP_TO = 10_000
START_UP_ROWS = 1_000
"""Always measured too: what it costs is mostly the start of Python and its libraries, and is taken off the others."""
SECONDS_BETWEEN_SAMPLES = 0.05

# What is planted, in shares of the rows.
NEAR_DUPLICATES = 0.02
COPIES = 0.01
LINKED = 0.05
ARABIC = 0.05

RECIPE = {
    "line": "generated",
    "purpose": "Measure the split.",
    "owner": "team:benchmarks",
    "ceiling": "PUBLIC",
    "sources": [{"name": "letters", "path": "none.jsonl", "licence": "invented", "retention": "none"}],
    "training": {"base_model": "none", "instruction": "Answer this letter."},
    "evaluation": {
        "capability": [{"name": "suite", "path": "suites/suite.jsonl", "classification": "PUBLIC"}],
        "red_team": {"classification": "PUBLIC", "prompts": "red_team/prompts.jsonl"},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[])
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--step", help=argparse.SUPPRESS)  # what a fresh process is started for
    arguments = parser.parse_args()
    go_offline()
    if arguments.step:
        sys.stdout.write(json.dumps(STEPS[arguments.step](arguments.out)))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "generated": []}
    for rows in sorted({START_UP_ROWS, *arguments.rows} if arguments.rows else ()):
        with tempfile.TemporaryDirectory(dir=arguments.out) as directory:
            results["generated"].append(measure_generated(Path(directory), rows))
        write_results(arguments.out, results)
    if arguments.questions:
        with tempfile.TemporaryDirectory(dir=arguments.out) as directory:
            results["parliament"] = measure_questions(Path(directory), arguments.questions)
    write_results(arguments.out, results)


def say(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def write_results(out: Path, results: dict[str, Any]) -> None:
    (out / "split_scale.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (out / "split_scale.md").write_text(as_markdown(results), encoding="utf-8")
    sys.stdout.write(as_markdown(results))


# --- generated corpora ---


def measure_generated(directory: Path, rows: int) -> dict[str, Any]:
    say(f"{rows:,} rows: writing the corpus")
    planted = write_generated(directory, rows)
    say(f"{rows:,} rows: splitting")
    build = in_a_fresh_process("build", directory)
    gate = in_a_fresh_process("gate", directory)
    say(f"{rows:,} rows: looking for what was planted")
    found = in_a_fresh_process("recall", directory)
    brute = in_a_fresh_process("brute_force", directory) if rows <= BRUTE_FORCE_UP_TO else None
    return {
        "rows": rows,
        "planted": planted,
        "build": build.measured,
        "gate": {**gate.measured, **gate.answer},
        "rows_per_second": round(rows / build.measured["seconds"]),
        "proof": build.answer,
        "recall": found.answer,
        "brute_force": brute.answer if brute else None,
    }


def write_generated(directory: Path, rows: int) -> dict[str, int]:
    """The corpus as an artifact of a stage in the place of scrubbed_corpus, and what was planted in planted.jsonl."""
    data = directory / "data"
    (data / "lines").mkdir(parents=True)
    (data / "institution.yaml").write_text(yaml.safe_dump({"name": "Generated", "classification": ["PUBLIC"]}))
    (data / "lines" / "generated.yaml").write_text(yaml.safe_dump(RECIPE))
    letters = Letters(rows)
    write_jsonl(directory / "letters.jsonl", iter(letters))
    write_jsonl(directory / "planted.jsonl", letters.planted)
    workplace = workplace_in(directory)
    ref = produce(SCRUBBED, workplace, {}).ref
    workplace.store.make_current("generated", SCRUBBED.kind, ref)
    (directory / "letters.jsonl").unlink()
    return dict(Counter(str(pair["kind"]) for pair in letters.planted))


def hand_on(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    shutil.copyfile(workplace.settings.home / "letters.jsonl", workspace / DOCUMENTS)
    return Built(summary={}, classification="PUBLIC")


# The invented letters hold nothing to scrub.
SCRUBBED = Stage("scrubbed_corpus", code_version="1", build=hand_on)
SPLIT = replace(LEAKAGE_SAFE_SPLIT, inputs=(SCRUBBED,))


class Letters:
    """Invented letters in case files of 1 to 6; `planted` holds what was planted once all have been taken.

    A letter is an opening and a closing that many share, one or two sentences of a stock of 60 (about a quarter of its
    words together), and 50 to 110 words of its own, frequent ones more often (Zipf). Near-duplicates are letters of
    another case file with one to three words replaced, of which those with Jaccard >= 0.8 count as planted.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.planted: list[dict[str, object]] = []
        self._random = random.Random(SEED)
        self._words = {
            "en": self._vocabulary("bcdfghjklmnprstvwz", "aeiou"),
            "ar": self._vocabulary("بتجدرسعفقكلمنه", "اوي"),
        }
        self._weights = list(self._cumulated(1 / (place + 10) for place in range(20_000)))
        self._stock = {
            language: [" ".join(self._some_words(language, self._random.randint(9, 16))) for _ in range(60)]
            for language in self._words
        }
        self._openings = {language: stock[:8] for language, stock in self._stock.items()}
        self._closings = {language: stock[8:16] for language, stock in self._stock.items()}

    def __iter__(self) -> Iterator[dict[str, object]]:
        rng = self._random
        recent: list[dict[str, Any]] = []
        case, left = 0, 0
        for number in range(self.rows):
            if left == 0:
                case, left = case + 1, rng.randint(1, 6)
            left -= 1
            row = self._letter(number, case)
            fate = rng.random()
            original = rng.choice(recent) if recent else None
            if original and original["case"] != row["case"]:
                if fate < COPIES:
                    self._plant(row, original, edits=0)
                elif fate < COPIES + NEAR_DUPLICATES:
                    self._plant(row, original, edits=rng.randint(1, 3))
                elif fate < COPIES + NEAR_DUPLICATES + LINKED:
                    row["links"] = [original["id"]]
            if rng.random() < 0.05:  # originals lie anywhere before, not only near by
                if len(recent) < 5_000:
                    recent.append(row)
                else:
                    recent[rng.randrange(5_000)] = row
            yield row

    def _letter(self, number: int, case: int) -> dict[str, Any]:
        rng = self._random
        language = "ar" if rng.random() < ARABIC else "en"
        own = self._some_words(language, rng.randint(50, 110))
        own.insert(rng.randrange(len(own)), f"NAME_{rng.randint(1, 9)}")
        half = rng.randrange(len(own))
        stock = rng.sample(self._stock[language], rng.randint(0, 2))
        return {
            "id": f"L-{number:07d}",
            "source": "letters",
            "case": f"CASE/{case:07d}",
            "department": "lamps",
            "author": f"NAME_{rng.randint(1, 3)}",
            "date": f"{rng.randint(2015, 2024)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
            "classification": "PUBLIC",
            "language": language,
            "subject": "Lamps",
            "request": " ".join([rng.choice(self._openings[language]) + ".", *own[:half]]),
            "response": " ".join([*stock, *own[half:], rng.choice(self._closings[language]) + "."]),
            "rejected": None,
            "links": [],
        }

    def _plant(self, row: dict[str, Any], original: dict[str, Any], edits: int) -> None:
        rng = self._random
        row.update({name: original[name] for name in ("language", "request", "response")})
        for _ in range(edits):
            field = rng.choice(("request", "response"))
            words = row[field].split(" ")
            words[rng.randrange(len(words))] = rng.choice(self._words[row["language"]])
            row[field] = " ".join(words)
        for field in ("request", "response"):  # placeholders count anew in every case file
            row[field] = re.sub(r"NAME_\d", f"NAME_{rng.randint(1, 9)}", row[field])
        one, other = shingles(original), shingles(row)
        similarity = len(one & other) / len(one | other)
        if edits == 0 or similarity >= 0.8:
            kind = "copies" if edits == 0 else "near_duplicates"
            self.planted.append({"kind": kind, "one": original["id"], "other": row["id"], "jaccard": similarity})

    def _some_words(self, language: str, count: int) -> list[str]:
        return self._random.choices(self._words[language], cum_weights=self._weights, k=count)

    def _vocabulary(self, consonants: str, vowels: str) -> list[str]:
        rng = self._random
        words: dict[str, None] = {}
        while len(words) < 20_000:
            words["".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(rng.randint(2, 4)))] = None
        return list(words)

    @staticmethod
    def _cumulated(weights: Iterator[float]) -> Iterator[float]:
        total = 0.0
        for weight in weights:
            total += weight
            yield total


def shingles(row: dict[str, Any]) -> set[Any]:
    """The definition, written a second time, for the generated letters: 5 words, or 9 characters of an Arabic one."""
    words = re.sub(r"(NAME)_\d", r"\1", f"{row['request']} {row['response']}").lower().replace(".", " ").split()
    if row["language"] == "ar":
        text = " ".join(words)
        return {text[start : start + 9] for start in range(len(text) - 8)}
    return {tuple(words[start : start + WORDS_PER_SHINGLE]) for start in range(len(words) - WORDS_PER_SHINGLE + 1)}


# --- steps, each in a process of its own ---


@dataclass(frozen=True)
class Step:
    """answer: what the process printed. measured: seconds and CPU seconds of it and its children, and the highest
    resident memory of all of them together (bytes shared between them count for each)."""

    answer: dict[str, Any]
    measured: dict[str, float]


def in_a_fresh_process(step: str, directory: Path) -> Step:
    before = os.times()
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, __file__, "--step", step, "--out", str(directory)], stdout=subprocess.PIPE, text=True
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident_bytes(process.pid))
        time.sleep(SECONDS_BETWEEN_SAMPLES)
    seconds = time.monotonic() - started
    after = os.times()
    assert process.stdout is not None
    answer = process.stdout.read()
    if process.returncode != 0:
        sys.exit(f"The step {step} in {directory} ended with status {process.returncode}.")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    measured = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_gb": round(peak / 1e9, 2)}
    return Step(json.loads(answer), measured)


def resident_bytes(pid: int) -> int:
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # it ended between the two looks
    return total


def workplace_in(directory: Path, line: str = "generated") -> Workplace:
    settings = Settings(home=directory, data=directory / "data", vault=directory / "vault")
    return open_workplace(settings, line, lambda message: say(f"    {message}"))


def current(workplace: Workplace, stage: Stage) -> ArtifactRef:
    ref = workplace.store.current(workplace.line.line, stage.kind)
    assert ref is not None
    return ref


def step_build(directory: Path) -> dict[str, Any]:
    """Seconds hold everything a run does: hashing the input, the stage, hashing and sealing its files."""
    workplace = workplace_in(directory)
    ref = produce(SPLIT, workplace, {SCRUBBED.kind: current(workplace, SCRUBBED)}).ref
    workplace.store.make_current(workplace.line.line, SPLIT.kind, ref)
    proof: dict[str, Any] = json.loads((workplace.store.path_of(ref.digest) / PROOF).read_text())
    return proof


def step_gate(directory: Path) -> dict[str, Any]:
    workplace = workplace_in(directory)
    (verdict,) = evaluate_gates(SPLIT, workplace, current(workplace, SPLIT)).values()
    return {"passed": verdict.passed, "message": verdict.message}


def step_recall(directory: Path) -> dict[str, Any]:
    """Which planted pairs MinHash ties, alone: by a pair, or by a chain of pairs."""
    workplace = workplace_in(directory)
    documents = workplace.store.open(current(workplace, SCRUBBED)).file(DOCUMENTS)
    with workplace.store.workspace() as scratch:
        columns = read_columns(documents, scratch)
        found = near_duplicates(
            columns.shingles, Rarity.of(scratch, columns.shingles), workplace.line.split.near_duplicate_jaccard
        )
    component_of = components(len(columns), [], [found.pairs]).tolist()
    number_of = {id: number for number, id in enumerate(columns.ids)}
    recall: dict[str, Any] = {"pairs": len(found.pairs), "candidates": found.candidates}
    planted = [json.loads(line) for line in (directory / "planted.jsonl").read_text(encoding="utf-8").splitlines()]
    for kind in sorted({pair["kind"] for pair in planted}):
        pairs = [(number_of[pair["one"]], number_of[pair["other"]]) for pair in planted if pair["kind"] == kind]
        recall[kind] = sum(component_of[one] == component_of[other] for one, other in pairs) / len(pairs)
    return recall


def step_brute_force(directory: Path) -> dict[str, Any]:
    """Every held-out letter against every training letter, with the definition written above; no part of the split."""
    import numpy as np
    from scipy.sparse import csr_array

    workplace = workplace_in(directory)
    artifact = workplace.store.open(current(workplace, SPLIT))
    held, train = (list(read_documents(artifact.file(name))) for name in (HELD_OUT, TRAIN))
    number_of: dict[Any, int] = {}
    sides = []
    for side in (held, train):
        sets = [shingles(document.model_dump()) for document in side]
        columns = [number_of.setdefault(shingle, len(number_of)) for each in sets for shingle in each]
        sizes = np.array([len(each) for each in sets])
        sides.append((columns, sizes))
    matrices = [
        csr_array(
            (np.ones(len(columns), np.int32), columns, np.concatenate(([0], np.cumsum(sizes)))),
            shape=(sizes.size, len(number_of)),
        )
        for columns, sizes in sides
    ]
    common = (matrices[0] @ matrices[1].T).tocoo()
    union = sides[0][1][common.row] + sides[1][1][common.col] - common.data
    similar = common.data / union >= workplace.line.split.near_duplicate_jaccard
    matters = [{matter for document in side for matter in (document.id, *document.links)} for side in (held, train)]
    cases = [{document.case for document in side} for side in (held, train)]
    return {
        "pairs_of_letters": len(held) * len(train),
        "crossing_near_duplicates": int(similar.sum()),
        "crossing_cases": len(cases[0] & cases[1]),
        "crossing_links": len(matters[0] & matters[1]),
        "held_out_share": round(len(held) / (len(held) + len(train)), 4),
    }


STEPS = {"build": step_build, "gate": step_gate, "recall": step_recall, "brute_force": step_brute_force}


# --- written questions ---


def measure_questions(directory: Path, questions: Path) -> dict[str, Any]:
    """Questions that were answered together, through the real corpus stages and the split with the recipe of
    benchmarks/parliament. Scrubbing is left out: it needs minutes and changes no id, case or link."""
    data = directory / "data"
    for folder in ("lines", "sources"):
        (data / folder).mkdir(parents=True)
    shutil.copyfile(PARLIAMENT / "institution.yaml", data / "institution.yaml")
    shutil.copyfile(PARLIAMENT / "parliament.yaml", data / "lines" / "parliament.yaml")
    for name in QUESTION_FILES:
        (data / "sources" / name).symlink_to((questions / name).resolve())
    workplace = workplace_in(directory, "parliament")

    def classified(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        shutil.copyfile(inputs[CLASSIFIED_CORPUS.kind].file(DOCUMENTS), workspace / DOCUMENTS)
        return Built(summary={})

    passthrough = Stage("scrubbed_corpus", code_version="1", build=classified, inputs=(CLASSIFIED_CORPUS,))
    split = replace(LEAKAGE_SAFE_SPLIT, inputs=(passthrough,))
    refs: dict[str, ArtifactRef] = {}
    messages = []
    for stage in (RAW_CORPUS, CLASSIFIED_CORPUS, passthrough, split):
        refs[stage.kind] = produce(stage, workplace, {each.kind: refs[each.kind] for each in stage.inputs}).ref
        workplace.store.make_current("parliament", stage.kind, refs[stage.kind])
        for name, verdict in evaluate_gates(stage, workplace, refs[stage.kind]).items():
            if not verdict.passed:
                sys.exit(f"The gate {name} refused the questions: {verdict.message}")
            messages.append(f"{name}: {verdict.message}")
    artifact = workplace.store.open(refs[split.kind])
    side_of = {document.id: name for name in (TRAIN, HELD_OUT) for document in read_documents(artifact.file(name))}
    groups = [
        {document.id, *document.links}
        for name in (TRAIN, HELD_OUT)
        for document in read_documents(artifact.file(name))
        if document.links
    ]
    present = [group & side_of.keys() for group in groups]
    sources = json.loads(workplace.store.open(refs[RAW_CORPUS.kind]).file("sources.json").read_text(encoding="utf-8"))
    return {
        "sources": [
            {name: source[name] for name in ("name", "rows", "documents", "quarantined", "not_selected")}
            for source in sources
        ],
        "documents": len(side_of),
        "documents_with_grouped_questions": len(groups),
        "groups_with_two_or_more_documents_here": sum(len(group) > 1 for group in present),
        "linked_ids_that_are_not_here": len(set().union(*groups) - side_of.keys()) if groups else 0,
        "crossing_groups": sum(len({side_of[id] for id in group}) > 1 for group in present),
        "held_out_share": round(sum(side == HELD_OUT for side in side_of.values()) / len(side_of), 4),
        "gates": messages,
    }


# --- the report ---


def as_markdown(results: dict[str, Any]) -> str:
    start_up = results["generated"][0]["build"]["seconds"] if results["generated"] else 0
    lines = [
        f"# The split, measured on {results['cores']} cores",
        "",
        "| rows | build s | CPU s | rows/s | peak GB | gate s | gate peak GB | µs a row without start-up "
        "| near-duplicates found | copies found | crossing (proof) | gate |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for each in results["generated"]:
        build, gate, recall = each["build"], each["gate"], each["recall"]
        crossing = ", ".join(f"{kind} {count}" for kind, count in each["proof"]["crossing"].items())
        lines.append(
            f"| {each['rows']:,} | {build['seconds']} | {build['cpu_seconds']} | {each['rows_per_second']:,} "
            f"| {build['peak_gb']} | {gate['seconds']} | {gate['peak_gb']} "
            f"| {(build['seconds'] - start_up) / each['rows'] * 1e6:.0f} "
            f"| {recall['near_duplicates']:.4%} of {each['planted']['near_duplicates']:,} "
            f"| {recall['copies']:.4%} of {each['planted']['copies']:,} | {crossing} "
            f"| {'passed' if gate['passed'] else 'refused'} |"
        )
    for each in results["generated"]:
        if each["brute_force"]:
            found = each["brute_force"]
            lines += [
                "",
                f"Brute force over all {found['pairs_of_letters']:,} pairs across the sides of {each['rows']:,} rows: "
                f"{found['crossing_near_duplicates']} near-duplicates, {found['crossing_cases']} cases, "
                f"{found['crossing_links']} links cross.",
            ]
    if "parliament" in results:
        found = results["parliament"]
        lines += [
            "",
            f"Written questions: {found['documents']:,} documents, {found['documents_with_grouped_questions']:,} with "
            f"grouped questions, {found['groups_with_two_or_more_documents_here']:,} of these groups with two or more "
            f"documents in the two files; {found['crossing_groups']} cross. "
            f"{found['linked_ids_that_are_not_here']:,} linked ids are not in the files.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
