"""`make golden`: take small lines through everything, and compare what came of it with the kept file.

Three homes: `story` (SFT and DPO, a blind review, releases, the gateway, a recall, evidence), `methods` (KTO; a reward
model and two iterations of PPO) and `demonstration` (the corpus half of the shipped lines). The pipeline is used only
through its command line, its pages, and the files of its artifacts.
"""

import argparse
import html
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import yaml

from sovereign_pipeline_tests.golden.line import PROJECT, letter, write_institution, write_jsonl
from sovereign_pipeline_tests.golden.places import PATIENCE, Place, Visitor, tell

KEPT = Path(__file__).with_name("kept.json")
FIRST, SECOND, LINE = "harbour-1.0.0", "harbour-1.1.0", "harbour"
OPERATORS = ("amal", "badr", "dana", "eid", "fay")
VOICE = {"The", "Harbour", "Office", "answers:", "the", "will", "be", "Quote", "your", "file."}
INSTITUTION = "institution"
QUESTIONS = [letter(number)["request"] for number in (7, 8, 9, 10)]


def methods(place: Place) -> None:
    shutil.copytree(place.root.parent / INSTITUTION, place.data)
    place.prepare()
    place.sovereign("run", "harbour-kto", "harbour-ppo", "--until", "aligned_adapter")
    for line in ("harbour-kto", "harbour-ppo"):
        place.keep(f"gates list {line}", "gates", "list", line)
        place.keep(f"lines explain {line}", "lines", "explain", line)


def demonstration(place: Place) -> None:
    shutil.copytree(PROJECT / "data", place.data, ignore=shutil.ignore_patterns("trust"))
    place.prepare()
    models = Path(os.environ.get("SOVEREIGN_HOME", PROJECT / ".sovereign")) / "models"
    shutil.copytree(models, place.home / "models")
    lines = {"permits-desk": ("training_dataset", "preference_dataset"), "circulars-ar": ("training_dataset",)}
    for line, kinds in lines.items():
        for kind in kinds:
            place.sovereign("run", line, "--until", kind)
        place.keep(f"gates list {line}", "gates", "list", line)
    place.keep("lines list", "lines", "list")
    place.keep("suites list", "suites", "list")


def story(place: Place) -> None:
    shutil.copytree(place.root.parent / INSTITUTION, place.data)
    place.prepare()
    place.keep("lines check", "lines", "check", place.data / "lines" / f"{LINE}.yaml")
    place.sovereign("run", LINE)
    token = json.loads(
        place.sovereign("serve", "tokens", "add", "clerk", "--clearance", "SECRET", "--versions", "--json")
    )["token"]
    _refused(place, "approve without a blind review", "adapters", "request", FIRST, "approve", "--reason", "Early.")
    review(place)
    place.move(FIRST, "approve", 2)
    place.move(FIRST, "stage", 1)
    place.move(FIRST, "promote", 2)
    rows = [letter(number) for number in range(60)]
    rows[3]["response"] += " The Harbour Office has spoken."
    write_jsonl(place.data / "sources" / "letters.jsonl", rows)
    place.keep("lines explain, a letter changed", "lines", "explain", LINE)
    place.sovereign("run", LINE)
    rules = yaml.safe_load((place.data / "institution.yaml").read_text())
    rules["release"]["blind_review"] = "not_required"
    (place.data / "institution.yaml").write_text(yaml.safe_dump(rules))
    with place.serving("serve") as address:
        caller = Caller(place, Visitor(address), token)
        caller.answer("in production", LINE, FIRST)
        place.move(SECOND, "approve", 2)
        place.move(SECOND, "stage", 1)
        caller.answer("staged, by version", SECOND, SECOND)
        place.keep("adapters hold", "adapters", "hold", LINE)
        place.move(SECOND, "promote", 2)
        caller.answer("promoted", LINE, SECOND)
        place.sign(1, "adapters", "rollback", LINE, "--reason", "It answers in verse.")
        caller.answer("rolled back", LINE, FIRST)
        caller.models(LINE, FIRST)
        recall(place, caller)
    evidence(place)
    listed(place)


class Caller:
    """Somebody who asks the gateway; answers are kept among the results."""

    def __init__(self, place: Place, visitor: Visitor, token: str) -> None:
        self._visitor, self._authorization = visitor, f"Bearer {token}"
        self._results = place.results.setdefault("gateway", {})

    def answer(self, name: str, model: str, adapter: str | None) -> None:
        """Ask until this adapter answers, or none for None; the gateway follows a decision within seconds."""
        deadline = time.monotonic() + PATIENCE
        while (found := self._ask(model, QUESTIONS[0]))[2] != adapter and time.monotonic() < deadline:
            time.sleep(0.5)
        others = [] if found[0] != 200 else [self._ask(model, question) for question in QUESTIONS[1:]]
        self._results[name] = [found, *others]

    def _ask(self, model: str, question: str) -> tuple[int, Any, str | None]:
        messages = [{"role": "user", "content": question}]
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 24}
        status, text = self._visitor.ask("/v1/chat/completions", body, Authorization=self._authorization)
        answer = json.loads(text)
        kept = {key: answer[key] for key in ("model", "choices", "usage", "error") if key in answer}
        named = [adapter for adapter in (FIRST, SECOND) if status == 200 and adapter in text]
        return status, kept, named[0] if named else None

    def models(self, *expected: str) -> None:
        """List the models, once they are these: the list follows a decision within seconds."""
        deadline = time.monotonic() + PATIENCE
        while (found := self._models()) != (200, [*expected]) and time.monotonic() < deadline:
            time.sleep(0.5)
        self._results["models"] = {"status": found[0], "ids": found[1]}

    def _models(self) -> tuple[int, list[str]]:
        status, text = self._visitor.ask("/v1/models", Authorization=self._authorization)
        return status, sorted(each["id"] for each in json.loads(text)["data"])


def review(place: Place) -> None:
    """A blind review in which everybody likes the answer better that is more in the office's voice."""
    opened = json.loads(place.sovereign("review", "open", LINE, "--operators", ",".join(OPERATORS), "--json"))
    place.results["links"] = sorted(opened["links"])
    pages: dict[str, int] = {}
    with place.serving("review", "serve") as address:
        for operator in OPERATORS:
            token = re.split("[#/]", opened["links"][operator])[-1]
            pages[operator] = sum(1 for _ in _rate(Visitor(address), token))
        place.keep("review status", "review", "status", LINE)
    place.sovereign("review", "close", LINE)
    place.keep("review status, closed", "review", "status", LINE)
    module = "sovereign_pipeline.dagster.definitions"
    place.program("dagster", "asset", "materialize", "--select", "blind_review", "--partition", LINE, "-m", module)
    place.results["review"] = {"questions": pages, "result": _result(place)}


def _rate(visitor: Visitor, token: str) -> Iterator[str]:
    """Answer every question of an operator. Gives each page that was answered."""
    status, text = visitor.ask("/sign-in", {"token": token})
    assert status == 204, text
    while True:
        _, page = visitor.ask("/")
        if "data-pair" not in page:
            return
        (pair,), (form,) = (re.findall(rf'data-{name}="([^"]*)"', page) for name in ("pair", "form-token"))
        answers = {
            position: html.unescape(shown)
            for position, shown in re.findall(r'id="answer-([ab])".*?<div class="text"[^>]*>(.*?)</div>', page, re.S)
        }
        known = {position: len(VOICE & {*shown.split()}) for position, shown in answers.items()}
        better = "tie" if known["a"] == known["b"] else "a" if known["a"] > known["b"] else "b"
        ratings = {name: 4 if name[0] == better else 2 for name in re.findall(r'data-name="([ab]\.\w+)"', page)}
        given: dict[str, object]
        if 'id="guess"' in page:
            path, given = f"/guesses/{pair}", {"choice": better.replace("tie", "a")}
        else:
            path, given = f"/pairs/{pair}", {"preference": better, "ratings": ratings}
        status, text = visitor.ask(path, given, X_Form_Token=form)
        assert status == 204, (path, given, text)
        yield page


def recall(place: Place, caller: Caller) -> None:
    place.keep("recall, asked", "recall", "--document", "H-0003")
    reason = ("--reason", "The writer withdrew the letter.")
    place.sign(2, "recall", "--document", "H-0003", "--open", "--yes", *reason)
    place.keep("recall list, open", "recall", "list")
    caller.answer("recalled", LINE, None)
    place.sign(2, "adapters", "retire", SECOND, "--reason", "It holds a withdrawn letter.")
    place.sign(2, "recall", "waive", "recall-1", FIRST, "--reason", "Retrained next week.")
    place.keep("recall list, closed", "recall", "list")
    caller.answer("waived", LINE, FIRST)


def evidence(place: Place) -> None:
    folder = place.root / "evidence"
    written = place.keep("evidence", "evidence", FIRST, "--out", folder)
    said = place.program("python", "-I", folder / "verify.py", written["root_sha256"])
    place.results["evidence"] = said.splitlines()
    place.keep("adapters verify --trust-root", "adapters", "verify", FIRST, "--trust-root", written["root_sha256"])


def listed(place: Place) -> None:
    """Everything that lists or shows, at the end of the story."""
    place.keep("adapters diff", "adapters", "diff", FIRST, SECOND)
    for command in ("list", "mlflow"):
        place.keep(f"adapters {command}", "adapters", command)
    place.keep("adapters status", "adapters", "status", "--disk")
    for adapter in (FIRST, SECOND):
        place.keep(f"adapters show {adapter}", "adapters", "show", adapter)
        place.keep(f"adapters history {adapter}", "adapters", "history", adapter)
    place.keep("adapters production", "adapters", "production", LINE)
    datasets = place.keep("datasets list", "datasets", "list")
    datasets.sort(key=lambda each: each["digest"])  # those of one second come in any order
    for dataset in datasets:
        place.keep(f"datasets show {dataset['digest'][:12]}", "datasets", "show", dataset["digest"])
        place.keep(f"datasets verify {dataset['digest'][:12]}", "datasets", "verify", dataset["digest"])
    place.keep("gates list", "gates", "list", LINE)
    place.keep("lines explain", "lines", "explain", LINE)
    place.keep("audit verify", "audit", "verify")
    place.keep("audit policy", "audit", "policy")
    place.keep("audit people list", "audit", "people", "list")
    place.keep("serve tokens list", "serve", "tokens", "list")
    export = place.root / "export.jsonl"
    place.sovereign("audit", "export", export)
    entries = [json.loads(row) for row in export.read_text().splitlines()]
    place.results["log"] = Counter(str(each.get("action")) for each in entries)
    for name in ("adapters list", f"adapters show {SECOND}"):  # adapters show FIRST has them once
        answer = place.results["cli"][name]
        for each in answer if isinstance(answer, list) else [answer]:
            each.pop("evaluation", None)


def _result(place: Place) -> Any:
    """What a blind review came to, as its artifact states it, without what was drawn by lot."""
    (path,) = place.home.glob("artifacts/*/review.json")
    return json.loads(path.read_text())


def _refused(place: Place, name: str, *arguments: object) -> None:
    place.results.setdefault("refused", {})[name] = place.sign(1, *arguments, may_end=1)


def differences(kept: Any, found: Any, where: str = "") -> Iterator[str]:
    """Each place where two results differ, by its path."""
    if isinstance(kept, dict) and isinstance(found, dict):
        for key in sorted({*kept, *found}):
            here = f"{where}/{key}"
            if key not in found:
                yield f"{here}: gone"
            elif key not in kept:
                yield f"{here}: new"
            else:
                yield from differences(kept[key], found[key], here)
    elif isinstance(kept, list) and isinstance(found, list) and len(kept) == len(found):
        for number, (one, other) in enumerate(zip(kept, found, strict=True)):
            yield from differences(one, other, f"{where}/{number}")
    elif kept != found:
        yield f"{where}: {_short(kept)} is now {_short(found)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:120]} … ({len(text)} characters)"


PARTS: dict[str, Callable[[Place], None]] = {"story": story, "methods": methods, "demonstration": demonstration}


def run(root: Path, parts: Sequence[str]) -> dict[str, Any]:
    """Take every home through its part, two at a time. Returns the normalised results of each.

    Results of a part are kept beside its home, so that a run that was interrupted resumes with the next part.
    """
    if not (root / INSTITUTION).exists():
        write_institution(root / INSTITUTION)
    with ThreadPoolExecutor(2) as pool:
        started = [pool.submit(_part, root, name) for name in parts]
        for each in as_completed(started):
            if (error := each.exception()) is not None:
                tell(f"{type(error).__name__}: {error}")
    return {name: each.result() for name, each in zip(parts, started, strict=True)}


def _part(root: Path, name: str) -> Any:
    done = root / f"{name}.json"
    if not done.exists():
        place = Place(name, root / name)
        shutil.rmtree(place.root, ignore_errors=True)
        place.root.mkdir()
        PARTS[name](place)
        (root / f"{name}.raw.json").write_text(json.dumps(place.results))
        done.write_text(json.dumps(place.normalised()))
    return json.loads(done.read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the pipeline's results with the kept ones.")
    parser.add_argument("--keep", action="store_true", help="write the kept file anew")
    parser.add_argument("--root", type=Path, help="work in this new directory, and leave it")
    parser.add_argument("--only", choices=[*PARTS], help="run this part alone, for a look")
    given = parser.parse_args()
    started = time.monotonic()
    root = given.root or Path(tempfile.mkdtemp(prefix="golden-"))
    root.mkdir(exist_ok=True)
    try:
        found = run(root, [given.only] if given.only else [*PARTS])
    finally:
        if given.root is None:
            shutil.rmtree(root, ignore_errors=True)
    tell(f"{time.monotonic() - started:.0f} s")
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    found = json.loads(json.dumps(found))
    if given.keep:
        KEPT.write_text(json.dumps(kept | found, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
        tell(f"Kept in {KEPT}.")
        return 0
    told = [*differences({name: kept.get(name) for name in found}, found)]
    tell(*told, f"{len(told)} differences from {KEPT}.")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
