"""Test the tests: change a module in one place, run the tests that reach it, and list the changes that no test notices.

The changes are cosmic-ray's, and two more: a condition is negated; a call whose result nobody reads is dropped. A first
run with coverage tells which tests reach a line. Tests run in forks of a process that has loaded the libraries.
"""

import argparse
import gc
import importlib
import json
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path

import grimp
import parso
import pytest
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.plugins import get_operator
from coverage import CoverageData

PACKAGE = "sovereign_pipeline"
OPERATORS = [
    *("ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
    *("ReplaceUnaryOperator_Delete_Not", "NumberReplacer", "ExceptionReplacer", "ZeroIterationForLoop"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_GtE", "Gt_LtE")),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul")),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Mod_Mul", "BitAnd_BitOr", "BitXor_BitAnd")),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("LShift_RShift", "RShift_LShift")),
]
OPTIONS = ["-p", "no:cacheprovider", "-p", "no:unraisableexception", "-q", "-m", "not browser and not postgresql"]
LOADED_BY_TESTS = (f"{PACKAGE}_tests", "_pytest", "pytest", "coverage", "__main__")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="+", type=Path)
    parser.add_argument("--tests", nargs="+", required=True)
    parser.add_argument("--sample", type=int, default=60, help="number of changes to a module, drawn with a fixed seed")
    parser.add_argument("--data", type=Path, help="file with the result of the first run; reused if it is there")
    arguments = parser.parse_args()
    file = arguments.data or Path(tempfile.mkdtemp()) / "data"
    if not file.exists():
        first_run(arguments.tests, file)
    os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode = "1", True
    took, loaded = json.loads(file.with_suffix(".json").read_text())
    took = {test: seconds for test, seconds in took.items() if test.startswith(tuple(arguments.tests))}
    for name in loaded:
        if not name.startswith(LOADED_BY_TESTS):
            try:
                importlib.import_module(name)
            except Exception:  # a library's optional part
                continue
    gc.freeze()
    data = CoverageData(str(file))
    data.read()
    for module in arguments.modules:
        check(module.resolve(), data, took, arguments.sample)


def first_run(tests: list[str], data: Path) -> None:
    """Run the tests unchanged. Write which lines each of them reaches, its duration, and the loaded modules."""
    child = os.fork()
    if not child:
        times = Times()
        os.environ["COVERAGE_FILE"] = str(data)
        status = pytest.main([*tests, *OPTIONS, f"--cov={PACKAGE}", "--cov-context=test", "--cov-report="], [times])
        data.with_suffix(".json").write_text(json.dumps([times.took, sorted(sys.modules)]))
        os._exit(int(status))
    if os.waitpid(child, 0)[1]:
        sys.exit("The tests fail without any change.")


class Times:
    """A plugin of pytest that records how long each test takes."""

    def __init__(self) -> None:
        self.took: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.took[report.nodeid] = self.took.get(report.nodeid, 0) + report.duration


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, operator and changed source of every change."""
    tree = parso.parse(source)
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        places = [start for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node)]
        for occurrence, (line, _) in enumerate(places):
            try:
                yield line, name, MutationVisitor.mutate_code(source, operator, occurrence)
            except AttributeError:  # `except module.Error`, which cosmic-ray cannot change
                continue
    for node in ast_nodes(tree):
        if node.type == "keyword" and node.value in ("if", "elif", "while"):
            expression = node.get_next_sibling()
            yield node.start_pos[0], "Negate", _replaced(source, expression, f"not ({expression.get_code().strip()})")
        if node.type == "simple_stmt" and node.children[0].type in ("atom_expr", "power"):
            yield node.start_pos[0], "DropCall", _replaced(source, node.children[0], "pass")


def _replaced(source: str, node: parso.tree.NodeOrLeaf, new: str) -> str:
    lines = source.splitlines(keepends=True)
    begin, end = (sum(map(len, lines[: line - 1])) + column for line, column in (node.start_pos, node.end_pos))
    return source[:begin] + new + source[end:]


def check(module: Path, data: CoverageData, took: dict[str, float], sample: int) -> None:
    """Print how many changes were noticed, and each that was not."""
    name = ".".join(module.relative_to(Path.cwd()).with_suffix("").parts)
    changed_with_it = {name, *grimp.build_graph(PACKAGE).find_downstream_modules(name)}
    reached, source, before = data.contexts_by_lineno(str(module)), module.read_text(), module.stat()
    found = list(mutants(source))
    drawn = sorted(random.Random(0).sample(found, min(sample, len(found))), key=lambda mutant: mutant[0])
    survivors = []
    try:
        for line, operator, changed in drawn:
            tests = {context.partition("|")[0] for context in reached.get(line, [])}
            # a line without a test's name runs when the module is loaded
            tests = sorted(took if "" in tests else tests & took.keys(), key=took.__getitem__)
            module.write_text(changed)
            if not tests or survives(tests, changed_with_it, math.ceil(5 + sum(map(took.get, tests)))):
                diff = list(unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0))[3:]
                survivors += [f"{line} {operator}, {len(tests)} tests", *diff]
    finally:
        module.write_text(source)
        os.utime(module, ns=(before.st_atime_ns, before.st_mtime_ns))
    survived = sum(not each.startswith(("-", "+")) for each in survivors)
    title = f"{name}: {len(found)} changes, {len(drawn)} drawn, {len(drawn) - survived} noticed"
    sys.stdout.write("\n".join([title, *survivors, ""]))
    sys.stdout.flush()


def survives(tests: list[str], changed: set[str], seconds: int) -> bool:
    """Run tests until one fails, with some modules loaded anew. Returns True if none failed in the processor time."""
    child = os.fork()
    if not child:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        for name in changed & sys.modules.keys():
            package, _, attribute = name.rpartition(".")
            vars(sys.modules.get(package, sys)).pop(attribute, None)
            del sys.modules[name]
        os._exit(int(pytest.main([*tests, "-x", "--no-cov", *OPTIONS])))
    end = time.monotonic() + 20 * seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


if __name__ == "__main__":
    main()
