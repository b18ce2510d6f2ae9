"""The training side can add and never read; the program for the offline machine."""

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import InputError, NotFoundError, PrivacyError, SovereignError
from sovereign_pipeline.privacy import engines
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.privacy.vault import MappingDigest, MappingRow, Vault, read_public_key, read_vault
from sovereign_pipeline.privacy.vault_cli import app
from sovereign_pipeline.record.production import produce
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.privacy.conftest import classified


def row(case: str = "PRM/2024/017", placeholder: str = "NAME_1", original: str = "Said Al Busaidi") -> MappingRow:
    return MappingRow("permits-desk", "f" * 64, case, "PRM-0001", "request", placeholder, original)


SEPARATORS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    private, public = tmp_path / "keys" / "vault.key", tmp_path / "vault.pub"
    assert call("keygen", "--private", private, "--public", public).exit_code == 0
    return private, public


@pytest.fixture
def filled(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    vault = Vault.at(tmp_path / "vault", keys[1])
    assert vault.add("permits-desk", [row(), row(placeholder="NAME_1", original="Al-Busaidi"), row(case="X/1")]) == 3
    return tmp_path / "vault"


def rows_in(directory: Path, private_key: str) -> list[MappingRow]:
    return [row for _, rows in read_vault(directory, private_key) for row in rows]


def test_what_was_added_comes_back_with_the_private_key_only(filled: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    assert [each.original for each in rows_in(filled, private.read_text())][:2] == ["Said Al Busaidi", "Al-Busaidi"]
    with pytest.raises(PrivacyError, match="no age private key"):
        rows_in(filled, public.read_text())
    with pytest.raises(PrivacyError, match="does not open"):
        rows_in(filled, str(pyrage.x25519.Identity.generate()))
    content = b"".join(file.read_bytes() for file in filled.rglob("*.age"))
    assert b"Busaidi" not in content
    assert b"NAME_1" not in content


def test_the_vault_only_grows(filled: Path, keys: tuple[Path, Path]) -> None:
    before = {file: file.read_bytes() for file in filled.rglob("*.age")}
    vault = Vault.at(filled, keys[1])
    assert vault.add("permits-desk", [row()]) == 1
    assert vault.add("permits-desk", []) == 0
    after = {file: file.read_bytes() for file in filled.rglob("*.age")}
    assert before.items() <= after.items()
    assert len(after) == 2


def test_a_changed_file_is_named(filled: Path, keys: tuple[Path, Path]) -> None:
    file = next(filled.rglob("*.age"))
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(PrivacyError, match=file.name):
        rows_in(filled, keys[0].read_text())


def test_keygen_guards_the_private_key_and_never_overwrites(keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert read_public_key(public).startswith("age1")
    before = private.read_text()
    assert isinstance(call("keygen", "--private", private).exception, InputError)
    assert private.read_text() == before
    other = tmp_path / "other.key"
    assert isinstance(call("keygen", "--private", other, "--public", public).exception, InputError)
    assert not other.exists()


def test_reveal_prints_the_mapping_and_leaves_an_audit_line(filled: Path, keys: tuple[Path, Path]) -> None:
    to_reveal = ("--key", keys[0], "--vault", filled, "--unchecked")
    table = call("reveal", "PRM/2024/017", *to_reveal)
    assert table.exit_code == 0
    assert "Busaidi" in table.stdout
    assert table.stderr.startswith("Not checked")
    listed = call("reveal", "prm/2024/017", *to_reveal, "--line", "permits-desk", "--json")
    assert [each["original"] for each in json.loads(listed.stdout)] == ["Said Al Busaidi", "Al-Busaidi"]
    assert isinstance(call("reveal", "NO/1", *to_reveal).exception, NotFoundError)
    audit = (filled / "audit.jsonl").read_text()
    entries = [json.loads(line) for line in audit.splitlines()]
    shown = [("PRM/2024/017", 2), ("prm/2024/017", 2), ("NO/1", 0)]
    assert [(entry["case"], entry["rows"]) for entry in entries] == shown
    assert all(entry["user"] and entry["time"] for entry in entries)
    assert "Busaidi" not in audit


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--key", "{key}.absent", "--vault", "{vault}"], InputError),
        (["--key", "{public}", "--vault", "{vault}"], PrivacyError),
        (["--key", "{key}", "--vault", "{vault}/absent"], NotFoundError),
    ],
)
def test_a_mistake_is_named_and_nothing_is_shown(
    filled: Path, keys: tuple[Path, Path], arguments: list[str], error: type[SovereignError]
) -> None:
    places = {"key": keys[0], "public": keys[1], "vault": filled}
    ended = call("reveal", "X/1", *[argument.format(**places) for argument in arguments], "--unchecked")
    assert isinstance(ended.exception, error)
    assert ended.stdout == ""


def test_the_program_of_the_offline_machine_loads_nothing_else_of_the_system() -> None:
    asks = (
        "import sys, sovereign_pipeline.privacy.vault_cli\n"
        "print(*sorted(name for name in sys.modules if name.startswith('sovereign_pipeline.')))\n"
        "print(*sorted({'dagster', 'numpy', 'spacy', 'sqlalchemy', 'torch', 'yaml'} & sys.modules.keys()))"
    )
    own, heavy = subprocess.run(
        [sys.executable, "-c", asks], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    own_names = {each.removeprefix("sovereign_pipeline.") for each in own.split()}
    assert own_names == {
        *("base", "base.errors", "base.files", "base.processes", "base.text"),
        *("privacy", "privacy.vault", "privacy.vault_cli", "record", "record.manifest"),
    }
    assert heavy == ""


@pytest.mark.security_case(
    "An original contains a line separator, such as an author with U+2028",
    "`reveal` returns it, and every other case, unchanged",
)
def test_an_original_with_any_line_separator_comes_back(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    rows = [row(original=f"Said{each}Al Busaidi") for each in SEPARATORS]
    rows += [row(case=f"X{each}1") for each in SEPARATORS]
    Vault.at(tmp_path / "vault", keys[1]).add("permits-desk", rows)
    assert rows_in(tmp_path / "vault", keys[0].read_text()) == rows


@pytest.mark.parametrize("content", [b"[]", b'{"line": "x"}', b"\xff", b"not json"])
def test_a_file_that_holds_no_rows_is_named(filled: Path, keys: tuple[Path, Path], content: bytes) -> None:
    recipient = pyrage.x25519.Recipient.from_str(read_public_key(keys[1]))
    (filled / "permits-desk" / "forged.age").write_bytes(pyrage.encrypt(content, [recipient]))
    ended = call("reveal", "X/1", "--key", keys[0], "--vault", filled, "--unchecked")
    assert "forged.age: the file contains something other than rows" in refusal(ended)


CASE = "CASE/00003"
TRUE = "Salma Al Harthi"


class Scrubbed:
    """A scrubbed corpus with its vault and the private key; case files in several vault files."""

    def __init__(self, institution: DemoInstitution) -> None:
        institution.rows[3]["author"] = TRUE
        workplace = institution.workplace()
        identity = pyrage.x25519.Identity.generate()
        self.public_key = workplace.settings.vault_public_key
        self.public_key.write_text(str(identity.to_public()))
        ref = produce(SCRUBBED_CORPUS, workplace, classified(workplace)).ref
        self.artifact = workplace.store.path_of(ref.digest)
        self.vault = workplace.settings.vault
        self.key = institution.root / "vault.key"
        self.key.write_text(str(identity))

    @property
    def rows(self) -> list[MappingRow]:
        return rows_in(self.vault, self.key.read_text())

    def seal(self, *rows: MappingRow) -> None:
        """What anybody can do who has the public key and may write to the vault."""
        Vault.at(self.vault, self.public_key).add("lamps", rows)

    def reveal(self, *options: str | Path) -> Result:
        return call("reveal", CASE, "--key", self.key, "--vault", self.vault, "--json", *options)


@pytest.fixture
def scrubbed(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scrubbed]:
    monkeypatch.setattr(engines, "DOCUMENTS_PER_BATCH", 7)
    yield Scrubbed(institution)


def originals(result: Result) -> list[str]:
    assert result.exit_code == 0, result.exception
    return [row["original"] for row in json.loads(result.stdout)]


def refusal(result: Result) -> str:
    assert result.stdout == ""
    assert isinstance(result.exception, SovereignError)
    return result.exception.message


def test_rows_are_shown_of_an_artifact_or_with_a_word_of_their_own(scrubbed: Scrubbed) -> None:
    assert len(list(scrubbed.vault.rglob("*.age"))) > 3
    assert originals(scrubbed.reveal("--artifact", scrubbed.artifact)) == [TRUE]
    assert "--artifact" in refusal(scrubbed.reveal())
    result = scrubbed.reveal("--unchecked")
    assert result.stderr.startswith("Not checked")
    assert originals(result) == [TRUE]


@pytest.mark.security_case(
    "Someone with the public key adds a false mapping to the vault",
    "`reveal` compares the whole mapping with the artifact's digest, shows nothing and names the foreign file",
)
def test_a_forged_row_beside_the_true_one_is_refused(scrubbed: Scrubbed) -> None:
    before = set(scrubbed.vault.rglob("*.age"))
    true = next(row for row in scrubbed.rows if row.case == CASE)
    scrubbed.seal(replace(true, original="Somebody Else"))
    (forged,) = set(scrubbed.vault.rglob("*.age")) - before
    message = refusal(scrubbed.reveal("--artifact", scrubbed.artifact))
    assert f"{forged} does not belong to the mapping" in message
    forged.unlink()
    assert originals(scrubbed.reveal("--artifact", scrubbed.artifact)) == [TRUE]


def test_rows_of_another_or_of_an_interrupted_run_change_nothing(scrubbed: Scrubbed) -> None:
    true = next(row for row in scrubbed.rows if row.case == CASE)
    scrubbed.seal(*(row for row in scrubbed.rows if row.case in (CASE, "CASE/00001")))
    scrubbed.seal(replace(true, run="0" * 64, original="Somebody Else"))
    assert originals(scrubbed.reveal("--artifact", scrubbed.artifact)) == [TRUE]


@pytest.mark.security_case(
    "The vault has files of an earlier key, or files that nobody can decrypt, beside those of an artifact",
    "`reveal` shows the artifact's rows if they are complete; otherwise it shows nothing and names the other files",
)
def test_files_of_another_key_are_not_in_the_way(scrubbed: Scrubbed) -> None:
    own = next(scrubbed.vault.rglob("*.age"))
    other = Vault(scrubbed.vault, str(pyrage.x25519.Identity.generate().to_public()))
    other.add("lamps", [row()])
    assert originals(scrubbed.reveal("--artifact", scrubbed.artifact)) == [TRUE]
    own.write_bytes(own.read_bytes()[:-1])
    message = refusal(scrubbed.reveal("--artifact", scrubbed.artifact))
    assert "is not the one that the artifact states" in message and str(own) in message
    assert "does not open the file" in refusal(scrubbed.reveal("--unchecked"))
    own.unlink()
    assert "is not the one that the artifact states" in refusal(scrubbed.reveal("--artifact", scrubbed.artifact))


@pytest.mark.security_case(
    "An artifact's record of its mapping is changed", "`reveal` rejects the artifact because of its digest"
)
@pytest.mark.parametrize("name", ["findings.json", "manifest.json"])
def test_an_artifact_that_was_changed_is_refused(scrubbed: Scrubbed, name: str) -> None:
    file = scrubbed.artifact / name
    file.write_bytes(file.read_bytes().replace(b"0", b"1"))
    assert refusal(scrubbed.reveal("--artifact", scrubbed.artifact))


def test_an_artifact_under_another_name_and_the_key_of_another_vault_are_refused(scrubbed: Scrubbed) -> None:
    other = scrubbed.artifact.rename(scrubbed.artifact.with_name("0" * 64))
    assert "the manifest in this directory belongs to artifact" in refusal(scrubbed.reveal("--artifact", other))
    other.rename(scrubbed.artifact)
    scrubbed.key.write_text(str(pyrage.x25519.Identity.generate()))
    assert "were encrypted to the public key" in refusal(scrubbed.reveal("--artifact", scrubbed.artifact))


def test_the_digest_counts_every_row_once_and_in_no_order() -> None:
    rows = [MappingRow("l", "r", f"C-{number // 2}", "R", "request", "NAME_1", f"{number}") for number in range(6)]

    def digest(*parts: list[MappingRow]) -> str:
        made = MappingDigest()
        for part in parts:
            made.add(part)
        return made.value

    assert digest(rows) == digest(rows[4:], rows[:4]) == digest(rows, rows[2:4]) == digest([*rows[:2][::-1], *rows[2:]])
    assert digest(rows[::2] + rows[1::2]) == digest(rows)  # spellings of one case may take turns
    assert digest(rows) != digest(rows[1:]) and digest(rows) != digest([*rows[:5], replace(rows[5], original="x")])
