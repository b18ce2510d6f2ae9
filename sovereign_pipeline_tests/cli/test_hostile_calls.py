"""No call of the command line ends in a traceback: it ends 0, 1 or 2, and an error names what is wrong and where."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign_pipeline.cli import main as cli
from sovereign_pipeline.privacy import vault_cli
from sovereign_pipeline.record import trust_cli
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.examples import examples

OF_A_LINE = examples(__file__, "of_a_line")
ODD_NAMES = (
    *("", " ", "a" * 5_000, "lamps\0", "lamps\nbuoys", "../../etc/passwd", "/etc/passwd", "[bold]lamps[/]"),
    *("\u202elamps", "%", "*"),
)
WITH_A_FILE = examples(__file__, "with_a_file")
ODD_PATHS = (
    *("a" * 300, "/".join(["a" * 200] * 30), "/", "nowhere/at/all", "/etc/hostname/below", "/dev/null", "a\0b", ""),
)
RECIPES: tuple[str | bytes, ...] = (
    "line: 2024-02-30",
    "line: " + "9" * 5_000,
    "[" * 3_000 + "]" * 3_000,
    "".join(" " * number + "a:\n" for number in range(2_000)),
    "line: &a [*a]",
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghi")),
    "<<: &a {<<: *a}",
    *("line: [", "[1, 2]: 3", "null: 3", "line: a\nline: b", "line: a\n---\nline: b", "", "just a text"),
    *("line: !!python/object/apply:os.system ['true']", "line: !unknown {a: 1}", "ceiling: .inf"),
    *(b"line: a\0b", "line: caf\xe9".encode("latin-1"), b"line: \xe2\x82", 'line: "\\uDCFF"'),
)
CHANGES = (
    ("gates", "held_out_loss", "margin"),
    ("split", "held_out_share"),
    ("training", "sft", "learning_rate"),
    ("gates", "loops", "margin"),
)
ODD_VALUES = [".inf", "-.inf", ".nan", "1" + "0" * 400, "1e999", "-1", "[]", "{}", '""', "null", "yes", "2024-02-30"]
ODD_PORTS = ["99999", "-1", "65536", "0x50", "1e3", "", "١٢٣", "9" * 5_000]
ODD_BYTES = (
    *(b"{", b"1", b"[]", b"null", b'{"sequence": ' + b"9" * 5_000 + b"}", b"[" * 100_000, b"\xff\xfe", b"", b"\0"),
    b'{"sequence": "x", "hash": 1}',
)


@pytest.fixture
def home(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An institution with one line, as the environment gives it to a command."""
    institution.write()
    for name, value in institution.settings.to_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(institution.settings.home.parent)
    return institution.settings.home.parent


def ends(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Call the program as its entry point does, and return its status. Fails on any exception but the end."""
    monkeypatch.setattr("sys.argv", ["sovereign", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def refuses(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Call the program, and return what it said."""
    status = ends(monkeypatch, *arguments)
    said = capsys.readouterr()
    assert status in (1, 2), (arguments, said)
    assert "Traceback" not in said.err and said.err.strip(), arguments
    return said.err


@pytest.mark.security_case(
    "A line's, adapter's, dataset's or model's name is empty, has 5,000 characters, NUL, a path or line breaks",
    "exit status 1 or 2 with a message, without a traceback",
)
@pytest.mark.parametrize("command", OF_A_LINE, ids=" ".join)
@pytest.mark.usefixtures("home")
def test_an_odd_name_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    for name in ODD_NAMES:
        if command[-1] == "--line":
            assert ends(monkeypatch, *command, name) in (0, 1, 2)
        else:
            refuses(capsys, monkeypatch, *command, name)


@pytest.mark.security_case(
    "A path has 6,000 characters or NUL, is below a file, or is a directory or a device",
    "exit status 1 or 2 with a message that names it, without a traceback",
)
@pytest.mark.parametrize("command", WITH_A_FILE, ids=" ".join)
@pytest.mark.usefixtures("home")
def test_an_odd_path_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    for path in ODD_PATHS:
        refuses(capsys, monkeypatch, *command, path)


@pytest.mark.security_case(
    "A recipe contains an invalid date, a number of 5,000 digits, 3,000 nested lists, or aliases that multiply",
    "rejected, with the file's name",
)
def test_an_odd_recipe_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in RECIPES:
        (home / "odd.yaml").write_bytes(given if isinstance(given, bytes) else given.encode())
        said = refuses(capsys, monkeypatch, "lines", "check", "odd.yaml")
        assert "odd.yaml" in said and len(said) < 5_000, given[:40]


@pytest.mark.security_case("A margin, share or rate in a recipe is infinite, not a number, or out of range", "rejected")
@pytest.mark.parametrize("change", CHANGES, ids=".".join)
def test_an_odd_number_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, change: tuple[str, ...]
) -> None:
    recipe: Any = yaml.safe_load((home / "data" / "lines" / "lamps.yaml").read_text())
    place = recipe
    *path, last = change
    for key in path:
        place = place.setdefault(key, {})
    place[last] = "VALUE"
    for value in ODD_VALUES:
        (home / "odd.yaml").write_text(yaml.safe_dump(recipe).replace("VALUE", value))
        assert last in refuses(capsys, monkeypatch, "lines", "check", "odd.yaml"), value


@pytest.mark.security_case("A port is 99999, negative or not a number", "rejected before anything starts")
@pytest.mark.parametrize(
    "command",
    [
        ("up", "--port"),
        ("up", "--gateway-port"),
        ("up", "--auditor"),
        ("review", "serve", "--port"),
        ("serve", "--port"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("home")
def test_an_odd_port_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    for port in ODD_PORTS:
        refuses(capsys, monkeypatch, *command, port)


@pytest.mark.security_case(
    "An audit log's export is damaged, or the file is not an export", "rejected, with the file's name"
)
def test_an_odd_export_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in ODD_BYTES:
        (home / "export.jsonl").write_bytes(given)
        assert "export.jsonl" in refuses(capsys, monkeypatch, "audit", "verify", "--export", "export.jsonl"), given[:9]


@pytest.mark.security_case("`sovereign-vault` gets an invalid key or path", "rejected with a message")
def test_the_vault_refuses_odd_keys_paths_and_lines(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "main", vault_cli.main)
    reveal = ("reveal", "C-1", "--vault", str(home), "--unchecked", "--key")
    for given in ODD_BYTES:
        (home / "odd.key").write_bytes(given)
        refuses(capsys, monkeypatch, *reveal, "odd.key")
    for key in ODD_PATHS:
        refuses(capsys, monkeypatch, *reveal, key)
    assert ends(monkeypatch, "keygen", "--private", "vault.key", "--public", "k") == 0
    for line in ("/x", "../x", "", "a" * 5_000, "*", "a/../b"):
        refuses(capsys, monkeypatch, *reveal, "vault.key", "--line", line)


@pytest.mark.security_case("An argument is not UTF-8", "rejected before the command runs")
@pytest.mark.parametrize("main", [cli.main, vault_cli.main, trust_cli.main])
def test_an_argument_that_is_no_text_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, main: Callable[[], None]
) -> None:
    monkeypatch.setattr("sys.argv", ["sovereign", "run", "lamps\udcff"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "Argument 2 is not UTF-8" in capsys.readouterr().err


@pytest.mark.security_case("`sovereign size` gets infinite, negative or very long numbers", "rejected with a message")
def test_an_odd_size_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--rows", "--tokens", "--rank", "--max-length", "--batch-size", "--epochs")
    for option, value in itertools.product(options, ("inf", "-inf", "nan", "9" * 400, "-1", "1e400")):
        refuses(capsys, monkeypatch, "size", "--model", "7B", "--rows", "1", "--tokens", "1", option, value)
