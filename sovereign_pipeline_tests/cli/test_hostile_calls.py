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
ODD_NAMES = {
    "empty": "",
    "space": " ",
    "long": "a" * 5_000,
    "nul": "lamps\0",
    "line break": "lamps\nbuoys",
    "path up": "../../etc/passwd",
    "absolute": "/etc/passwd",
    "markup": "[bold]lamps[/]",
    "right to left": "\u202elamps",
    "percent": "%",
    "star": "*",
}
WITH_A_FILE = examples(__file__, "with_a_file")
ODD_PATHS = {
    "long name": "a" * 300,
    "long path": "/".join(["a" * 200] * 30),
    "directory": "/",
    "in no directory": "nowhere/at/all",
    "below a file": "/etc/hostname/below",
    "device": "/dev/null",
    "nul": "a\0b",
    "empty": "",
}
RECIPES: dict[str, str | bytes] = {
    "date that is none": "line: 2024-02-30",
    "time that is none": "line: 2024-01-01T25:61:00Z",
    "number of 5,000 digits": "line: " + "9" * 5_000,
    "fraction of 5,000 digits": "line: 0." + "9" * 5_000,
    "hexadecimal": "line: 0x" + "f" * 5_000,
    "base sixty": "line: 1:" + ":".join(["59"] * 2_000),
    "lists in lists": "[" * 3_000 + "]" * 3_000,
    "mappings in mappings": "".join(" " * number + "a:\n" for number in range(2_000)),
    "flow mappings": "{a: " * 3_000 + "1" + "}" * 3_000,
    "not closed": "line: [",
    "alias of itself": "line: &a [*a]",
    "aliases that multiply": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghi")),
    "merge of itself": "<<: &a {<<: *a}",
    "merge of a text": "<<: text",
    "key that is a list": "[1, 2]: 3",
    "key that is a mapping": "{a: 1}: 3",
    "key that is null": "null: 3",
    "key written twice": "line: a\nline: b",
    "tag of Python": "line: !!python/object/apply:os.system ['true']",
    "tag unknown": "line: !unknown {a: 1}",
    "binary": "line: !!binary '%%%'",
    "integer that is none": "line: !!int x",
    "float that is none": "line: !!float x",
    "time by tag": "line: !!timestamp x",
    "set": "line: !!set {a}",
    "pairs": "line: !!pairs [a]",
    "ordered map": "line: !!omap [a]",
    "two documents": "line: a\n---\nline: b",
    "empty": "",
    "a text": "just a text",
    "a list": "- 1",
    "nul": b"line: a\0b",
    "latin": "line: caf\xe9".encode("latin-1"),
    "utf-16": "line: a".encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbfline: a",
    "half of a character": b"line: \xe2\x82",
    "surrogate": 'line: "\\uDCFF"',
    "next line": "line: a\u0085b: c",
    "tab": "line:\n\ta: b",
    "control character": "line: \x07",
    "infinite": "ceiling: .inf",
    "no number": "ceiling: .nan",
    "directive": "%YAML 9.9\n---\nline: a",
}
CHANGES: dict[str, tuple[str, ...]] = {
    "margin": ("gates", "held_out_loss", "margin"),
    "share": ("split", "held_out_share"),
    "learning rate": ("training", "sft", "learning_rate"),
    "margin of the red team": ("gates", "loops", "margin"),
}
ODD_VALUES = [".inf", "-.inf", ".nan", "1" + "0" * 400, "1e999", "-1", "[]", "{}", '""', "null", "yes", "2024-02-30"]
ODD_PORTS = ["99999", "-1", "65536", "0x50", "1e3", "", "١٢٣", "9" * 5_000]
EXPORTS: dict[str, bytes] = {
    "no JSON": b"{",
    "a number": b"1",
    "a list": b"[]",
    "null": b"null",
    "number of 5,000 digits": b'{"sequence": ' + b"9" * 5_000 + b"}",
    "deep": b"[" * 100_000,
    "not UTF-8": b"\xff\xfe",
    "empty": b"",
    "nul": b"\0",
    "not the fields": b'{"sequence": "x", "hash": 1}',
}


@pytest.fixture
def home(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An institution with one line, as the environment gives it to a command."""
    institution.write()
    for name, value in institution.settings.to_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(institution.settings.home.parent)
    return institution.settings.home.parent


def refuses(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Call the program as its entry point does. Fails on any exception but the end; returns what it said."""
    monkeypatch.setattr("sys.argv", ["sovereign", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    assert end.value.code in (1, 2), said
    assert "Traceback" not in said.err and said.err.strip()
    return said.err


@pytest.mark.security_case(
    "A line's, adapter's, dataset's or model's name is empty, has 5,000 characters, NUL, a path or line breaks",
    "exit status 1 or 2 with a message, without a traceback",
)
@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("command", OF_A_LINE, ids=" ".join)
@pytest.mark.usefixtures("home")
def test_an_odd_name_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], name: str
) -> None:
    if command[-1] == "--line":
        monkeypatch.setattr("sys.argv", ["sovereign", *command, ODD_NAMES[name]])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code in (0, 1, 2)
        return
    refuses(capsys, monkeypatch, *command, ODD_NAMES[name])


@pytest.mark.security_case(
    "A path has 6,000 characters or NUL, is below a file, or is a directory or a device",
    "exit status 1 or 2 with a message that names it, without a traceback",
)
@pytest.mark.parametrize("path", ODD_PATHS)
@pytest.mark.parametrize("command", WITH_A_FILE, ids=" ".join)
@pytest.mark.usefixtures("home")
def test_an_odd_path_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], path: str
) -> None:
    refuses(capsys, monkeypatch, *command, ODD_PATHS[path])


@pytest.mark.security_case(
    "A recipe contains an invalid date, a number of 5,000 digits, 3,000 nested lists, or aliases that multiply",
    "rejected, with the file's name",
)
@pytest.mark.parametrize("content", RECIPES)
def test_an_odd_recipe_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    given = RECIPES[content]
    (home / "odd.yaml").write_bytes(given if isinstance(given, bytes) else given.encode())
    said = refuses(capsys, monkeypatch, "lines", "check", "odd.yaml")
    assert "odd.yaml" in said and len(said) < 5_000


@pytest.mark.security_case("A margin, share or rate in a recipe is infinite, not a number, or out of range", "rejected")
@pytest.mark.parametrize("value", ODD_VALUES)
@pytest.mark.parametrize("change", CHANGES)
def test_an_odd_number_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, change: str, value: str
) -> None:
    recipe: Any = yaml.safe_load((home / "data" / "lines" / "lamps.yaml").read_text())
    place = recipe
    *path, last = CHANGES[change]
    for key in path:
        place = place.setdefault(key, {})
    place[last] = "VALUE"
    (home / "odd.yaml").write_text(yaml.safe_dump(recipe).replace("VALUE", value))
    assert last in refuses(capsys, monkeypatch, "lines", "check", "odd.yaml")


@pytest.mark.security_case("A port is 99999, negative or not a number", "rejected before anything starts")
@pytest.mark.parametrize("port", ODD_PORTS)
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
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], port: str
) -> None:
    refuses(capsys, monkeypatch, *command, port)


@pytest.mark.security_case(
    "An audit log's export is damaged, or the file is not an export", "rejected, with the file's name"
)
@pytest.mark.parametrize("content", EXPORTS)
def test_an_odd_export_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (home / "export.jsonl").write_bytes(EXPORTS[content])
    assert "export.jsonl" in refuses(capsys, monkeypatch, "audit", "verify", "--export", "export.jsonl")


@pytest.mark.security_case("`sovereign-vault` gets an invalid key or path", "rejected with a message")
@pytest.mark.parametrize("content", EXPORTS)
def test_the_vault_refuses_odd_keys_and_paths(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (home / "odd.key").write_bytes(EXPORTS[content])
    for key in ("odd.key", *ODD_PATHS.values()):
        monkeypatch.setattr("sys.argv", ["sovereign-vault", "reveal", "C-1", "--key", key, "--vault", str(home)])
        with pytest.raises(SystemExit) as end:
            vault_cli.main()
        assert end.value.code in (1, 2)
        capsys.readouterr()


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
@pytest.mark.parametrize("option", ["--rows", "--tokens", "--rank", "--max-length", "--batch-size", "--epochs"])
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "9" * 400, "-1", "1e400"])
def test_an_odd_size_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: str, value: str
) -> None:
    refuses(capsys, monkeypatch, "size", "--model", "7B", "--rows", "1", "--tokens", "1", option, value)


@pytest.mark.parametrize("line", ["/x", "../x", "", "a" * 5_000, "*", "a/../b"])
def test_the_vault_refuses_an_odd_line(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    key = home / "vault.key"
    monkeypatch.setattr("sys.argv", ["sovereign-vault", "keygen", "--private", str(key), "--public", str(home / "k")])
    with pytest.raises(SystemExit):
        vault_cli.main()
    monkeypatch.setattr(
        "sys.argv",
        ["sovereign-vault", "reveal", "C-1", "--key", str(key), "--vault", str(home), "--line", line, "--unchecked"],
    )
    with pytest.raises(SystemExit) as end:
        vault_cli.main()
    assert end.value.code in (1, 2) and "Traceback" not in capsys.readouterr().err
