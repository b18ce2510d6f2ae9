"""Measure the split: time, memory, recall and crossings on generated corpora, and grouped questions on a real one.

    .venv/bin/python -m benchmarks.corpus.split_scale --rows 10000 100000 1000000 --questions DIR --out DIR --page PAGE

For each number of rows a corpus of invented letters is written, and the real stage leakage_safe_split is produced in a
fresh process. Up to CHECKED_UP_TO rows, its gate is asked and what was planted is looked for, each in a process of its
own. --nodes: the same documents are read over two nodes of Ray on this machine, and the proofs compared.
--page: where the table of time and memory is written, between its marks. --questions: a folder with
`wq_2023-12.jsonl.gz` and `wq_2024-07.jsonl.gz`, written questions of the House of Commons as its API gives them; the
data is not part of this project. Results go to --out as split_scale.json and split_scale.md. About 4 GB of disk are
needed under --out for a million rows; they are freed at the end.
"""

import argparse
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.corpus.brute_force import brute_force
from benchmarks.corpus.generated_letters import Letters
from benchmarks.harness import trust_demonstration
from sovereign_pipeline.base.settings import Settings, go_offline
from sovereign_pipeline.corpus.document import read_documents, write_jsonl
from sovereign_pipeline.corpus.engines import patience
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS, RAW_CORPUS
from sovereign_pipeline.policy.corpus import Corpus
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.split import HELD_OUT, PROOF, TRAIN
from sovereign_pipeline.split.assignment import assign, components
from sovereign_pipeline.split.contained_texts import Boilerplate, OwnShingles, contained_pairs
from sovereign_pipeline.split.features import read_features
from sovereign_pipeline.split.near_duplicates import near_duplicates
from sovereign_pipeline.split.shingles import Rarity
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT, json_of_proof, proof_of
from sovereign_pipeline.workplace import open_workplace

PARLIAMENT = Path(__file__).resolve().parent.parent / "parliament"
QUESTION_FILES = ("wq_2023-12.jsonl.gz", "wq_2024-07.jsonl.gz")

BRUTE_FORCE_UP_TO = 10_000
CHECKED_UP_TO = 100_000
BEGIN, END = "<!-- split -->\n", "<!-- /split -->"
EXTRAPOLATED_TO = 10_000_000
START_UP_ROWS = 1_000
"""Always measured too: what it costs is mostly the start of Python and its libraries, and is taken off the others."""
SECONDS_BETWEEN_SAMPLES = 0.05
PLANTED = ("near_duplicates", "copies", "forwards")

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
    parser.add_argument("--nodes", action="store_true")
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path)
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
            results["generated"].append(measure_generated(Path(directory), rows, arguments.nodes))
        write_results(arguments.out, results)
    if arguments.questions:
        with tempfile.TemporaryDirectory(dir=arguments.out) as directory:
            results["parliament"] = measure_questions(Path(directory), arguments.questions)
    write_results(arguments.out, results)
    if arguments.page:
        before, _, rest = arguments.page.read_text(encoding="utf-8").partition(BEGIN)
        table = "\n".join(table_of_scale(results["generated"]))
        arguments.page.write_text(f"{before}{BEGIN}{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def say(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def write_results(out: Path, results: dict[str, Any]) -> None:
    (out / "split_scale.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (out / "split_scale.md").write_text(as_markdown(results), encoding="utf-8")
    sys.stdout.write(as_markdown(results))


# --- generated corpora ---


def measure_generated(directory: Path, rows: int, on_nodes: bool) -> dict[str, Any]:
    say(f"{rows:,} rows: writing the corpus")
    planted = write_generated(directory, rows)
    say(f"{rows:,} rows: splitting")
    build = in_a_fresh_process("build", directory)
    is_checked = rows <= CHECKED_UP_TO
    gate = in_a_fresh_process("gate", directory) if is_checked else None
    say(f"{rows:,} rows: looking for what was planted")
    found = in_a_fresh_process("recall", directory) if is_checked else None
    brute = in_a_fresh_process("brute_force", directory) if rows <= BRUTE_FORCE_UP_TO else None
    nodes = in_a_fresh_process("nodes", directory) if on_nodes and rows > START_UP_ROWS else None
    return {
        "rows": rows,
        "planted": planted,
        "build": build.measured,
        "gate": {**gate.measured, **gate.answer} if gate else None,
        "rows_per_second": round(rows / build.measured["seconds"]),
        "proof": build.answer,
        "recall": found.answer if found else None,
        "brute_force": brute.answer if brute else None,
        "nodes": {**nodes.measured, **nodes.answer} if nodes else None,
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


# --- steps, each in a process of its own ---


@dataclass(frozen=True)
class Step:
    """answer: what the process printed. measured: seconds and CPU seconds of it and its children, and the highest
    memory of all of them together: all that is resident, and without pages of files, which the system can drop."""

    answer: dict[str, Any]
    measured: dict[str, float]


def in_a_fresh_process(step: str, directory: Path) -> Step:
    before = os.times()
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.corpus.split_scale", "--step", step, "--out", str(directory)],
        stdout=subprocess.PIPE,
        text=True,
    )
    resident = own = 0
    while process.poll() is None:
        of_all, of_files = resident_bytes(process.pid)
        resident, own = max(resident, of_all), max(own, of_all - of_files)
        time.sleep(SECONDS_BETWEEN_SAMPLES)
    seconds = time.monotonic() - started
    after = os.times()
    assert process.stdout is not None
    answer = process.stdout.read()
    if process.returncode != 0:
        sys.exit(f"The step {step} in {directory} ended with status {process.returncode}.")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    measured = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_gb": round(own / 1e9, 2)}
    measured["peak_gb_with_files"] = round(resident / 1e9, 2)
    return Step(json.loads(answer), measured)


def resident_bytes(pid: int) -> tuple[int, int]:
    """The resident memory of a process and its children, and how much of it are pages of files."""
    total = of_files = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0, 0
    for process in processes:
        try:
            memory = process.memory_info()
            total, of_files = total + memory.rss, of_files + memory.shared
        except psutil.NoSuchProcess:
            continue  # it ended between the two looks
    return total, of_files


def workplace_in(directory: Path, line: str = "generated") -> Workplace:
    settings = Settings(home=directory, data=directory / "data", vault=directory / "vault", corpus=directory / "corpus")
    trust_demonstration(settings)
    return open_workplace(settings, line, lambda message: say(f"    {message}"), with_corpus=lambda line: True)


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
    """Which planted pairs each search ties, alone: by a pair, or by a chain of pairs."""
    workplace = workplace_in(directory)
    documents = workplace.store.open(current(workplace, SCRUBBED)).file(DOCUMENTS)
    with workplace.store.workspace() as scratch:
        features = read_features(documents, workplace.line.split, {}, scratch, workplace.progress)
        columns = features.columns
        found = near_duplicates(
            columns.shingles, Rarity.of(scratch, columns.shingles), workplace.line.split.near_duplicate_jaccard, scratch
        )
        texts = columns.texts.distinct()
        contained = contained_pairs(texts, OwnShingles.of(texts, Boilerplate.of(scratch, columns.texts)))
    by_search = {
        "near_duplicates": components(len(columns), [], [found.pairs]).tolist(),
        "forwards": components(len(columns), [features.ties["equal_text"]], [texts.documents[contained]]).tolist(),
    }
    number_of = {id: number for number, id in enumerate(columns.ids)}
    recall: dict[str, Any] = {
        "pairs": len(found.pairs),
        "candidates": found.candidates,
        "contained_texts": len(contained),
    }
    planted = [json.loads(line) for line in (directory / "planted.jsonl").read_text(encoding="utf-8").splitlines()]
    for kind in sorted({pair["kind"] for pair in planted}):
        pairs = [(number_of[pair["one"]], number_of[pair["other"]]) for pair in planted if pair["kind"] == kind]
        component_of = by_search["forwards" if kind == "forwards" else "near_duplicates"]
        recall[kind] = sum(component_of[one] == component_of[other] for one, other in pairs) / len(pairs)
    return recall


def step_brute_force(directory: Path) -> dict[str, Any]:
    workplace = workplace_in(directory)
    artifact = workplace.store.open(current(workplace, SPLIT))
    held, train = (list(read_documents(artifact.file(name))) for name in (HELD_OUT, TRAIN))
    return brute_force(held, train, workplace.line.split.near_duplicate_jaccard)


def step_nodes(directory: Path) -> dict[str, Any]:
    """Build the proof once more over two nodes of Ray with one core each, and compare it with the stored one."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "num_gpus": 0, "include_dashboard": False}
    with patience(ray, say):
        cluster = Cluster(initialize_head=True, head_node_args=node)
        cluster.add_node(**node)
    os.environ["RAY_ADDRESS"] = cluster.address
    workplace = workplace_in(directory)
    recipe = workplace.line.split
    documents = workplace.store.open(current(workplace, SCRUBBED)).file(DOCUMENTS)
    with workplace.store.workspace() as scratch:
        features = read_features(documents, recipe, {}, scratch, workplace.progress, Corpus(engine="ray", workers=2))
        proof = proof_of(features.columns, assign(features, recipe, scratch, workplace.progress), recipe)
    ray.init(log_to_driver=False, logging_level="ERROR")
    read_by = {actor["Address"]["NodeID"] for actor in ray._private.state.actors().values()}
    ray.shutdown()
    cluster.shutdown()
    stored = workplace.store.open(current(workplace, SPLIT)).file(PROOF).read_text(encoding="utf-8")
    return {"nodes": len(read_by), "same_proof": json_of_proof(proof) == stored}


STEPS = {
    "build": step_build,
    "gate": step_gate,
    "recall": step_recall,
    "brute_force": step_brute_force,
    "nodes": step_nodes,
}


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


def table_of_scale(generated: list[dict[str, Any]]) -> list[str]:
    """Time and memory of each size beside the exponents of their growth, without what the start of Python takes."""
    start_up, *sizes = (
        {
            "rows": each["rows"],
            **{name: each["build"][name] for name in ("cpu_seconds", "peak_gb", "peak_gb_with_files")},
        }
        for each in generated
    )
    lines = [
        "| rows | CPU s | exponent | peak GB | exponent | peak GB with pages of files |",
        "|---:|---:|---:|---:|---:|---:|",
    ]

    def exponent(name: str, before: dict[str, Any], each: dict[str, Any]) -> float:
        growth = (each[name] - start_up[name]) / max(before[name] - start_up[name], 0.01)
        return math.log(max(growth, 1)) / math.log(each["rows"] / before["rows"])

    exponents = {"cpu_seconds": 1.0, "peak_gb": 1.0}
    for before, each in itertools.pairwise([None, *sizes]):
        if before:
            exponents = {name: exponent(name, before, each) for name in exponents}
        shown = {name: f"{value:.2f}" if before else "–" for name, value in exponents.items()}
        lines.append(
            f"| {each['rows']:,} | {each['cpu_seconds']:.0f} | {shown['cpu_seconds']} | {each['peak_gb']:.2f} "
            f"| {shown['peak_gb']} | {each['peak_gb_with_files']:.2f} |"
        )
    if sizes:
        last = sizes[-1]
        times = EXTRAPOLATED_TO / last["rows"]
        grown = (last["cpu_seconds"] - start_up["cpu_seconds"]) * times ** max(1.0, exponents["cpu_seconds"])
        lines.append(f"| {EXTRAPOLATED_TO:,}, extrapolated | {start_up['cpu_seconds'] + grown:,.0f} | | | | |")
    return lines


def as_markdown(results: dict[str, Any]) -> str:
    lines = [
        f"# The split, measured on {results['cores']} cores",
        "",
        *(table_of_scale(results["generated"]) if results["generated"] else []),
        "",
        "| rows | build s | rows/s | gate s | gate peak GB | near-duplicates found | copies found | forwards found "
        "| crossing (proof) | gate |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for each in results["generated"]:
        build, gate, recall = each["build"], each["gate"], each["recall"]
        crossing = ", ".join(f"{kind} {count}" for kind, count in each["proof"]["crossing"].items())
        planted = each["planted"]
        found = [f"{recall[kind]:.4%} of {planted[kind]:,}" if recall else "" for kind in PLANTED]
        lines.append(
            f"| {each['rows']:,} | {build['seconds']} | {each['rows_per_second']:,} "
            f"| {gate['seconds'] if gate else ''} | {gate['peak_gb'] if gate else ''} | {' | '.join(found)} "
            f"| {crossing} | {'' if gate is None else 'passed' if gate['passed'] else 'refused'} |"
        )
    for each in results["generated"]:
        if nodes := each["nodes"]:
            is_same = "the same proof" if nodes["same_proof"] else "ANOTHER PROOF"
            lines += [
                "",
                f"{each['rows']:,} rows over {nodes['nodes']} nodes of Ray: {is_same}, {nodes['cpu_seconds']} CPU s.",
            ]
    for each in results["generated"]:
        if each["brute_force"]:
            found = each["brute_force"]
            lines += [
                "",
                f"Brute force over all {found['pairs_of_letters']:,} pairs across the sides of {each['rows']:,} rows: "
                f"{found['crossing_near_duplicates']} near-duplicates, "
                f"{found['crossing_contained_texts']} contained texts, "
                f"{found['crossing_cases']} cases, {found['crossing_links']} links cross.",
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
