"""`sovereign-trust` from an empty table to a trust root that was changed, and what it refuses."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sovereign_pipeline.record import keys, trust_cli
from sovereign_pipeline.record.keys import keyid_of
from sovereign_pipeline.record.trust_changes import demonstration_trust
from sovereign_pipeline.record.trust_root import load_trust
from sovereign_pipeline_tests.cli.test_hostile_calls import ODD_BYTES, ODD_PATHS


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str


Program = Callable[..., Said]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """Calls the program in a directory with a file of passphrases."""
    monkeypatch.chdir(tmp_path)
    words = tmp_path / "words"
    words.write_text("seven lamps at the quay\n")
    words.chmod(0o600)

    monkeypatch.setattr(trust_cli, "keep_private", lambda: None)
    monkeypatch.setattr(keys, "ROUNDS", 1_000)  # as many as it takes to test the rest

    def call(*arguments: object) -> Said:
        monkeypatch.setattr("sys.argv", ["sovereign-trust", *map(str, arguments)])
        status = 0
        try:
            trust_cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(status, said.out, said.err)

    return call


WORDS = ("--passphrase-file", "words")
ROOTS = ("--root", "stick-a", "--root", "stick-b", "--root", "stick-c")
TWO = ("--key", "stick-a/root.key", "--key", "stick-c/root.key", *WORDS)


@pytest.fixture(scope="module")
def beginning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("beginning")


@pytest.fixture
def made(program: Program, beginning: Path, tmp_path: Path) -> Program:
    """A trust root in `trust`, with a pipeline's key: made by the first test that asks, copied for the others."""
    if not any(beginning.iterdir()):
        assert program("keygen", "service/pipeline.key", "--service").status == 0
        assert program("init", "trust", *ROOTS, "--pipeline", "service/pipeline.key.pub", *WORDS).status == 0
        shutil.copytree(tmp_path, beginning, dirs_exist_ok=True)
    shutil.copytree(beginning, tmp_path, dirs_exist_ok=True)
    return program


def shown(program: Program) -> dict[str, object]:
    said = program("show", "trust", "--json")
    assert said.status == 0
    return dict(json.loads(said.out))


def test_from_nothing_to_an_officer_who_is_revoked(made: Program, tmp_path: Path) -> None:
    first = hashlib.sha256((tmp_path / "trust" / "1.root.json").read_bytes()).hexdigest()
    said = made("keygen", "layla.key", *WORDS)
    keyid = keyid_of((tmp_path / "layla.key.pub").read_text())
    assert f"Key id: {keyid}" in said.out
    scope = ("--person", "Layla Haddad", "--may", "*", "--level", "PUBLIC", "--level", "INTERNAL")
    said = made("add-officer", "trust", "layla.key.pub", *scope, *TWO)
    assert (said.status, said.err) == (0, "") and f"SHA-256 of the first root: {first}" in said.out
    said = made("show", "trust", "--root-sha256", first)
    assert said.status == 0 and f"  {keyid}  Layla Haddad: may approve * at PUBLIC, INTERNAL\n" in said.out
    assert made("revoke", "trust", keyid, "--from-index", 12, *TWO).status == 0
    roles = shown(made)["roles"]
    assert isinstance(roles, dict)
    assert roles["officer"]["keys"] == [
        {
            "keyid": keyid,
            "person": "Layla Haddad",
            "may": ["*"],
            "levels": ["PUBLIC", "INTERNAL"],
            "revoked_from": 12,
        }
    ]


def test_keys_are_rotated_and_the_root_stays_the_auditors(made: Program) -> None:
    before = shown(made)
    made("keygen", "service/new.key", "--service")
    said = made("rotate", "trust", "pipeline", "service/new.key.pub", "--from-index", 3, *TWO)
    assert "root 1, targets 2" in said.out
    new = ("--root", "stick-d", "--root", "stick-e", "--root", "stick-f", "--new-passphrase-file", "words")
    assert "root 2, targets 3" in made("rotate-root", "trust", *new, *TWO).out
    assert made("renew", "trust", *TWO).status == 2
    fresh = ("--key", "stick-d/root.key", "--key", "stick-e/root.key", *WORDS)
    assert "root 3, targets 4" in made("renew", "trust", *fresh).out
    assert shown(made)["root_sha256"] == before["root_sha256"]
    assert "root 3" in made("install", "trust", "machine").out
    assert made("show", "machine", "--root-sha256", "0" * 64).status == 1


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("revoke", "trust", "0" * 64, "--from-index", 1, "--key", "stick-a/root.key", *WORDS), 2, "has no key 0000"),
        (("renew", "trust", "--key", "stick-a/root.key", *WORDS), 2, "1 root keys were given, but 2 are needed"),
        (("renew", "trust", *TWO[:-2], "--passphrase-file", "other"), 2, "the passphrase does not decrypt this key"),
        (("renew", "trust", *TWO[:-2]), 2, "there is no terminal"),
        (("renew", "trust"), 2, "Root keys must sign"),
        (("renew", "trust", "--key", "service/pipeline.key", *TWO), 2, "is not a root key"),
        (("renew", "trust", *TWO, *WORDS, *WORDS), 2, "3 passphrase files were given for 2 keys"),
        (("renew", "nowhere", *TWO), 2, "there is no trust root"),
        (("add-key", "trust", "officer", "service/pipeline.key.pub", *TWO), 2, "needs a person"),
        (("add-key", "trust", "bundle", "service/pipeline.key.pub", *TWO), 1, "already has the role pipeline"),
        (("init", "trust", *ROOTS, *WORDS), 1, "is not empty"),
        (("init", "new", *ROOTS, *WORDS), 2, "stick-a/root.key: the file exists already"),
        (("init", "new", "--root", "a", "--root", "a", *WORDS), 2, "in one directory"),
        (("init", "new", "--root", "a", *WORDS), 2, "2 of 1 root keys is not a valid threshold"),
        (("rotate-root", "trust", "--root", "a", "--root", "b", *TWO[2:]), 2, "there is no terminal"),
        (("rotate-root", "trust", "--root", "a", "--new-passphrase-file", "words", *TWO), 2, "not a valid threshold"),
        (("keygen", "service/pipeline.key", *WORDS), 2, "never overwritten"),
        (("keygen", "a.key", "--passphrase-file", "short"), 2, "shorter than 12"),
        (("keygen", "a.key", "--service", *WORDS), 2, "has no passphrase"),
        (("keygen", "open/a.key", "--service"), 2, "its directory is open"),
    ],
)
def test_what_is_refused_names_what_and_where_and_changes_nothing(
    made: Program, tmp_path: Path, arguments: tuple[object, ...], status: int, said: str
) -> None:
    for name, text in (("other", "nine lamps at the quay"), ("short", "lamp")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    refused = made(*arguments)
    assert refused.status == status and said in refused.err.replace("\n", " "), refused
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.security_case("`sovereign-trust` gets an invalid key, path or file", "rejected with a message")
def test_odd_keys_and_paths_are_refused(program: Program, tmp_path: Path) -> None:
    def refuses(path: str) -> None:
        assert program("show", path).status in (1, 2)
        assert program("renew", "trust", "--key", path, *WORDS).status in (1, 2)
        assert program("init", "made", *ROOTS, "--pipeline", path, *WORDS).status == 2

    odd = tmp_path / "odd"
    odd.touch(0o600)
    (tmp_path / "trust").mkdir()
    for content in ODD_BYTES:
        (tmp_path / "trust" / "1.root.json").write_bytes(content)
        assert program("show", "trust").status == 1
        odd.write_bytes(content)
        refuses("odd")
    for path in ODD_PATHS:
        refuses(path)


@pytest.mark.security_case(
    "The demonstration's keys are mistaken for real ones", "every output says that they are demonstration keys"
)
def test_demonstration_keys_say_what_they_are(program: Program, tmp_path: Path) -> None:
    trust = demonstration_trust(tmp_path / "trust", tmp_path / "keys")
    assert trust.is_demonstration and trust == demonstration_trust(tmp_path / "trust", tmp_path / "keys")
    assert [key.person for key in trust.keys("officer")] == [f"Demonstration Officer {each}" for each in (1, 2, 3)]
    assert shown(program)["note"] == "demonstration keys"
    assert "These are demonstration keys" in program("show", "trust").out
    program("keygen", "new.key", "--service")
    two = ("--key", "keys/root-1.key", "--key", "keys/root-2.key")
    said = program("rotate-root", "trust", *ROOTS, "--new-passphrase-file", "words", *two)
    assert said.status == 0 and "These are demonstration keys" in said.err, "real keys do not mend where it began"
    assert load_trust(tmp_path / "trust").is_demonstration
