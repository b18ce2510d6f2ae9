"""A key on a token signs as one in a file does: tried on SoftHSM2, which keeps its tokens in files."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.record import trust_cli
from sovereign_pipeline.record.keys import MODULES, TokenKey, generate, is_signed, open_signer, write_key
from sovereign_pipeline.record.trust_root import load_trust

pytest.importorskip("PyKCS11", reason="the extra pkcs11 is not installed")
MODULE = MODULES[-1]
pytestmark = [
    pytest.mark.skipif(
        shutil.which("softhsm2-util") is None or not MODULE.exists(), reason="SoftHSM2 is not installed"
    ),
    pytest.mark.usefixtures("tokens"),
]
PIN = "271828"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokens with so many keys. All at once: the module reads its configuration and its tokens once in a process."""
    directory = tmp_path_factory.mktemp("softhsm")
    (directory / "tokens").mkdir()
    configuration = directory / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(configuration))
        for label, keys in {"Office": 1, "Root": 1, "Officer": 1, "Several": 2, "Empty": 0}.items():
            _make(directory, label, keys)
        yield


def _make(directory: Path, label: str, keys: int) -> None:
    tool = ["softhsm2-util", "--module", str(MODULE)]
    initialise = ["--init-token", "--free", "--label", label, "--so-pin", PIN, "--pin", PIN]
    subprocess.run([*tool, *initialise], check=True, capture_output=True)
    (directory / label).mkdir(mode=0o700)
    for number in range(keys):
        file = directory / label / f"{number}.key"
        write_key(file, generate(), None)
        into = ["--import", str(file), "--token", label, "--label", f"key-{number}", "--id", f"0{number}", "--pin", PIN]
        subprocess.run([*tool, *into], check=True, capture_output=True)


def test_a_key_on_a_token_signs_as_its_public_key_shows(tmp_path: Path) -> None:
    signer = open_signer(TokenKey("Office", None, MODULE), lambda: PIN)
    for content in (b"", b"an approval", bytes(100_000)):
        assert is_signed(signer.public_pem, signer.sign(content), content)
    (tmp_path / "key.pub").write_text(signer.public_pem)
    (tmp_path / "signature").write_bytes(signer.sign(b"seen by openssl"))
    (tmp_path / "content").write_bytes(b"seen by openssl")
    command = ["openssl", "dgst", "-sha256", "-verify", "key.pub", "-signature", "signature", "content"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout == "Verified OK\n"


def test_the_program_makes_a_trust_root_with_a_root_key_on_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("words", "seven lamps at the quay"), ("pin", PIN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trust_cli, "keep_private", lambda: None)
    root = ["--root", "a", "--root", "b", "--root-token", "Root", "--pkcs11-module", str(MODULE)]
    words = ["--passphrase-file", "words", "--passphrase-file", "words", "--passphrase-file", "pin"]
    with_token = ["--key", "a/root.key", "--token", "Root", "--pkcs11-module", str(MODULE), *words[2:]]
    for arguments in (["init", "trust", *root, *words], ["renew", "trust", *with_token]):
        monkeypatch.setattr("sys.argv", ["sovereign-trust", *arguments])
        with pytest.raises(SystemExit) as end:
            trust_cli.main()
        assert end.value.code == 0
    assert load_trust(tmp_path / "trust").root_version == 2


def test_a_wrong_pin_token_or_module_ends_with_what_to_check(tmp_path: Path) -> None:
    for source, pin, said in (
        (TokenKey("Empty", None, MODULE), "000000", "the PIN was rejected"),
        (TokenKey("Empty", None, MODULE), PIN, "has 0 elliptic-curve keys"),
        (TokenKey("Elsewhere", None, MODULE), PIN, "finds 0 tokens with the label 'Elsewhere'"),
        (TokenKey("Empty", None, tmp_path / "none.so"), PIN, "PKCS#11 module failed"),
    ):
        with pytest.raises(InputError, match=said):
            open_signer(source, lambda pin=pin: pin)  # type: ignore[misc]
