"""The artifact vouches for its mapping: rows that somebody else sealed beside the true ones are not shown."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, RAW_CORPUS
from sovereign_pipeline.privacy import batches
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.privacy.vault import MappingDigest, MappingRow, Vault, read_vault
from sovereign_pipeline.privacy.vault_cli import app
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.materializing import materialize

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
        made: dict[str, ArtifactRef] = {}
        for stage in (RAW_CORPUS, CLASSIFIED_CORPUS):
            made[stage.kind] = materialize(stage, workplace, made)
        ref = produce(SCRUBBED_CORPUS, workplace, {"classified_corpus": made["classified_corpus"]}).ref
        self.artifact = workplace.store.path_of(ref.digest)
        self.vault = workplace.settings.vault
        self.key = institution.root / "vault.key"
        self.key.write_text(str(identity))

    @property
    def rows(self) -> list[MappingRow]:
        return list(read_vault(self.vault, self.key.read_text()))

    def seal(self, *rows: MappingRow) -> None:
        """What anybody can do who has the public key and may write to the vault."""
        Vault.at(self.vault, self.public_key).add("lamps", rows)

    def reveal(self, *options: str | Path) -> Result:
        given = ["reveal", CASE, "--key", self.key, "--vault", self.vault, "--json", *options]
        return CliRunner().invoke(app, [str(each) for each in given])


@pytest.fixture
def scrubbed(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scrubbed]:
    monkeypatch.setattr(batches, "NEW_DOCUMENTS_PER_BATCH", 7)
    yield Scrubbed(institution)


def originals(result: Result) -> list[str]:
    assert result.exit_code == 0, result.exception
    return [row["original"] for row in json.loads(result.stdout)]


def refusal(result: Result) -> str:
    assert result.stdout == ""
    assert isinstance(result.exception, SovereignError)
    return result.exception.message


def test_the_rows_of_an_artifact_are_shown(scrubbed: Scrubbed) -> None:
    assert len(list(scrubbed.vault.rglob("*.age"))) > 3
    assert originals(scrubbed.reveal("--artifact", scrubbed.artifact)) == [TRUE]


def test_rows_that_no_artifact_vouches_for_need_a_word_of_their_own(scrubbed: Scrubbed) -> None:
    assert "--artifact" in refusal(scrubbed.reveal())
    result = scrubbed.reveal("--unchecked")
    assert result.stderr.startswith("Not checked")
    assert originals(result) == [TRUE]


@pytest.mark.security_case(
    "somebody with the public key seals a false mapping beside the true one",
    "`reveal` compares the whole mapping with the artifact's digest, shows nothing and names the foreign file",
)
def test_a_forged_row_beside_the_true_one_is_refused(scrubbed: Scrubbed) -> None:
    before = set(scrubbed.vault.rglob("*.age"))
    true = next(row for row in scrubbed.rows if row.case == CASE)
    scrubbed.seal(replace(true, original="Somebody Else"))
    (forged,) = set(scrubbed.vault.rglob("*.age")) - before
    message = refusal(scrubbed.reveal("--artifact", scrubbed.artifact))
    assert f"{forged} is not of it" in message
    forged.unlink()
    assert originals(scrubbed.reveal("--artifact", scrubbed.artifact)) == [TRUE]


def test_rows_of_another_run_are_neither_shown_nor_in_the_way(scrubbed: Scrubbed) -> None:
    true = next(row for row in scrubbed.rows if row.case == CASE)
    scrubbed.seal(replace(true, run="0" * 64, original="Somebody Else"))
    assert originals(scrubbed.reveal("--artifact", scrubbed.artifact)) == [TRUE]


def test_rows_that_an_interrupted_run_sealed_before_are_the_same_rows(scrubbed: Scrubbed) -> None:
    scrubbed.seal(*(row for row in scrubbed.rows if row.case in (CASE, "CASE/00001")))
    assert originals(scrubbed.reveal("--artifact", scrubbed.artifact)) == [TRUE]


def test_a_vault_file_that_is_missing_is_noticed(scrubbed: Scrubbed) -> None:
    next(scrubbed.vault.rglob("*.age")).unlink()
    assert "is not the one that the artifact states" in refusal(scrubbed.reveal("--artifact", scrubbed.artifact))


@pytest.mark.security_case(
    "an artifact's statement about its mapping is rewritten", "`reveal` refuses the artifact: it has another digest"
)
@pytest.mark.parametrize("name", ["findings.json", "manifest.json"])
def test_an_artifact_that_was_changed_is_refused(scrubbed: Scrubbed, name: str) -> None:
    file = scrubbed.artifact / name
    file.write_bytes(file.read_bytes().replace(b"0", b"1"))
    assert refusal(scrubbed.reveal("--artifact", scrubbed.artifact))


def test_an_artifact_under_another_name_is_refused(scrubbed: Scrubbed) -> None:
    other = scrubbed.artifact.rename(scrubbed.artifact.with_name("0" * 64))
    assert "the manifest there is that of artifact" in refusal(scrubbed.reveal("--artifact", other))


def test_the_key_of_another_vault_is_refused_with_both_fingerprints(scrubbed: Scrubbed) -> None:
    scrubbed.key.write_text(str(pyrage.x25519.Identity.generate()))
    assert "was sealed to the public key" in refusal(scrubbed.reveal("--artifact", scrubbed.artifact))


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
