"""What was in force when an act was made: the trust root and the rules, each change an entry before the act."""

import datetime
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.in_force import rule_file, rules, trust_on_record
from sovereign_pipeline.record.keys import FileSigner, generate
from sovereign_pipeline.record.trust_changes import add_key, create_trust
from sovereign_pipeline.record.trust_root import load_trust
from sovereign_pipeline_tests.record.lamps import light
from sovereign_pipeline_tests.registry.bench import Bench


@pytest.fixture(scope="module")
def roots() -> tuple[FileSigner, ...]:
    return tuple(generate() for _ in range(3))


@pytest.fixture
def trust(bench: Bench, roots: tuple[FileSigner, ...]) -> Path:
    directory = bench.settings.data / "trust"
    create_trust(directory, roots, {"pipeline": [generate().public_pem]})
    return directory


@pytest.fixture
def sovereign(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The command line in this institution; its output, and what it refused."""
    for variable, path in (("HOME", bench.settings.home), ("DATA", bench.settings.data)):
        monkeypatch.setenv(f"SOVEREIGN_{variable}", str(path))

    def run(*arguments: str) -> str:
        answer = CliRunner().invoke(app, list(arguments))
        return f"{answer.exit_code} {answer.stdout} {answer.exception or ''}"

    return run


def actions(registry: Registry) -> list[str]:
    return [entry.action for entry in entries(registry)]


def another(directory: Path) -> str:
    """Put a trust root with other keys in a directory. Returns the SHA-256 of its first root."""
    shutil.rmtree(directory)
    return create_trust(directory, [generate() for _ in range(3)], {"pipeline": [generate().public_pem]}).root_sha256


@pytest.mark.security_case(
    "Another trust root is installed in data/trust",
    "every act and every reader is rejected until an administrator confirms its full SHA-256",
)
def test_the_first_act_names_the_trust_root_and_another_one_stops_every_act(registry: Registry, trust: Path) -> None:
    light(registry, 1)
    assert actions(registry) == ["trust root named", "lamp 1 lit"]
    before = load_trust(trust).root_sha256

    another(trust)

    with pytest.raises(IntegrityError, match=f"names the first root {before}"):
        light(registry, 2)
    with pytest.raises(IntegrityError, match=f"names the first root {before}"):
        actions(registry)
    shutil.rmtree(trust)
    with pytest.raises(IntegrityError, match="the trust root of ledger entry"):
        light(registry, 2)
    assert actions(registry)[-1] == "lamp 1 lit"


@pytest.mark.security_case("The trust root from before a revocation is restored", "no request or decision is accepted")
@pytest.mark.security_case(
    "An older trust root, in which a revoked key is still valid, is restored to data/trust",
    "nothing is read from the registry until the newest one is back",
)
def test_a_new_version_is_an_entry_and_an_older_one_stops_every_act(
    registry: Registry, trust: Path, roots: tuple[FileSigner, ...], tmp_path: Path
) -> None:
    light(registry, 1)
    shutil.copytree(trust, tmp_path / "older")
    add_key(trust, "bundle", generate().public_pem, roots[:2])
    light(registry, 2)
    assert actions(registry)[-2:] == ["trust changed", "lamp 2 lit"]
    newest = (trust / "targets.json").read_bytes()

    shutil.copy(tmp_path / "older" / "targets.json", trust)
    with pytest.raises(
        IntegrityError, match=r"targets 1\) is older than root 1 and targets 2, which ledger entry 3 names"
    ):
        light(registry, 3)
    with pytest.raises(IntegrityError, match="is older than root 1 and targets 2"), registry.reading():
        pass

    shutil.copytree(tmp_path / "older", trust, dirs_exist_ok=True)
    add_key(trust, "bundle", generate().public_pem, roots[:2])
    with pytest.raises(IntegrityError, match="is a fork"):  # of the same versions
        light(registry, 3)

    (trust / "targets.json").write_bytes(newest)
    light(registry, 3)
    assert actions(registry)[-2:] == ["lamp 2 lit", "lamp 3 lit"]


@pytest.mark.security_case(
    "data/trust contains another or an older trust root when the ledger is verified",
    "`audit verify` exits with status 1",
)
def test_verifying_compares_the_trust_root_with_the_one_on_record(
    registry: Registry, trust: Path, roots: tuple[FileSigner, ...], tmp_path: Path, sovereign: Callable[..., str]
) -> None:
    shutil.move(trust, tmp_path / "first")
    light(registry, 0)
    assert sovereign("audit", "verify").startswith("0")
    shutil.move(tmp_path / "first", trust)
    assert sovereign("audit", "verify").startswith("1")  # nothing is compared
    light(registry, 1)
    shutil.copytree(trust, tmp_path / "older")
    add_key(trust, "bundle", generate().public_pem, roots[:2])
    light(registry, 2)
    assert sovereign("audit", "verify").startswith("0")
    shutil.copytree(trust, tmp_path / "newest")
    shutil.copy(tmp_path / "older" / "targets.json", trust)
    assert sovereign("audit", "verify").startswith("1")
    another(trust)
    assert sovereign("audit", "verify").startswith("1")
    shutil.rmtree(trust)
    assert sovereign("audit", "verify").startswith("1")
    shutil.copytree(tmp_path / "newest", trust)
    assert sovereign("audit", "verify").startswith("0")


def test_a_trust_root_is_replaced_by_naming_it_in_full(
    registry: Registry, trust: Path, sovereign: Callable[..., str]
) -> None:
    light(registry, 1)
    new = another(trust)

    assert "the first root has the SHA-256" in sovereign("audit", "trust-root", "0" * 64)
    assert "the first root has the SHA-256" in sovereign("audit", "trust-root", new[:20])
    assert sovereign("audit", "trust-root", new).startswith("0")

    light(registry, 2)
    assert actions(registry)[-2:] == ["trust root replaced", "lamp 2 lit"]
    with registry.reading() as session:
        known = trust_on_record(session)
    assert known is not None
    assert known.root_sha256 == new
    assert f"trust root {new}" in sovereign("audit", "verify")
    assert "is already in force" in sovereign("audit", "trust-root", new)


@pytest.mark.security_case(
    "The rules are loosened for one act and then restored", "both changes are logged, with copies"
)
def test_changed_rules_are_an_entry_before_the_act_with_a_copy_of_each(
    bench: Bench, registry: Registry, sovereign: Callable[..., str]
) -> None:
    bench.institution.write()
    light(registry, 1)
    assert actions(registry) == ["trust root named", "policy changed", "policy changed", "lamp 1 lit"]
    light(registry, 2)
    assert actions(registry)[4:] == ["lamp 2 lit"], "nothing had changed"
    between = datetime.datetime.now(datetime.UTC)

    file = bench.settings.data / "institution.yaml"
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_text(file.read_text() + "\nrelease: {blind_review: not_required}\n")
    now = hashlib.sha256(file.read_bytes()).hexdigest()
    (bench.settings.data / "lines" / "lamps.yaml").unlink()
    light(registry, 3)

    changed = [entry.subjects for entry in entries(registry) if entry.action == "policy changed"][2:]
    assert changed[0] == {"file": "institution.yaml", "before": before, "now": now}
    assert (changed[1]["file"], changed[1]["now"]) == ("lines/lamps.yaml", None)
    for sha256 in (before, now):
        assert hashlib.sha256(rule_file(bench.settings, sha256).read_bytes()).hexdigest() == sha256
    with registry.reading() as session:
        assert {each.file: each.sha256 for each in rules(session, between)}["institution.yaml"] == before
    assert now in sovereign("audit", "policy", "--json")
    assert before in sovereign("audit", "policy", "--json", "--at", between.isoformat())


@pytest.mark.security_case(
    "The order of the classification levels in `institution.yaml` is turned around", "nothing is read under it"
)
def test_nothing_is_read_under_levels_in_another_order(bench: Bench, registry: Registry) -> None:
    bench.institution.write()
    file = bench.settings.data / "institution.yaml"
    content = yaml.safe_load(file.read_text())
    levels = content["classification"]
    file.write_text(yaml.safe_dump({**content, "classification": [*reversed(levels)]}))
    light(registry, 1)  # before the first adapter, a mistake can be corrected
    file.write_text(yaml.safe_dump(content))
    light(registry, 2)
    bench.register()
    for changed in ([levels[0], "RESTRICTED", *levels[1:]], ["OPEN", *levels[1:]], levels[1:]):
        file.write_text(yaml.safe_dump({**content, "classification": changed}))
        light(registry, len(changed))
    file.write_text(yaml.safe_dump({**content, "classification": [*reversed(levels)]}))
    with pytest.raises(IntegrityError):
        light(registry, 2)
    with pytest.raises(IntegrityError), registry.reading():
        pass
    file.write_text(yaml.safe_dump(content))
    with registry.reading():
        pass


def test_the_export_of_the_log_is_in_the_log(registry: Registry, sovereign: Callable[..., str], tmp_path: Path) -> None:
    light(registry, 1)
    assert "2 entries" in sovereign("audit", "export", str(tmp_path / "log.jsonl"))
    assert actions(registry)[-1] == "log exported"
