"""An evidence package in a test: its files, changing them, and an attacker who makes index and signature anew."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.evidence import verify
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.statements import EVIDENCE, Statement, Subject, sign_statement

INDEX, SIGNATURE = "index.json", "index.json.sigstore.json"


Files = Mapping[str, bytes | None]
"""Path -> content, or None where the file is taken out."""


@dataclass(frozen=True)
class Package:
    """The files of a package, and the first root's SHA-256 that its reader has on paper."""

    files: dict[str, bytes]
    root_sha256: str

    @property
    def index(self) -> dict[str, Any]:
        return dict(json.loads(self.files[INDEX]))

    def refusal(self, on: str | None = None, seen: int = 0, said: list[str] | None = None) -> str | None:
        """Why its own verifier refuses it, or None."""
        try:
            verify.verify({**self.files}, self.root_sha256, on, seen, (said if said is not None else []).append)
        except verify.Refused as refused:
            return str(refused)
        return None

    def read(self) -> verify.Package:
        """As its verifier has read it before it follows what changed by it."""
        package = verify.Package({**self.files})
        package.index = verify.read_index(package)
        package.trust = verify.read_trust(package, self.root_sha256)
        package.log = verify.read_log(package)
        package.artifacts, package.rows = verify.read_artifacts(package), verify.read_rows(package)
        package.acts = verify.read_acts(package)
        return package

    def but(self, changes: Files) -> "Package":
        """With other files, and the index as it was."""
        changed = {**self.files, **changes}
        return Package({name: content for name, content in changed.items() if content is not None}, self.root_sha256)

    def indexed(self, changes: Files, signer: Signer | None = None, **facts: object) -> "Package":
        """With other files, and indexed anew; signed anew too where somebody has the key."""
        made, index = self.but(changes), self.index | facts
        for name in changes:
            index["files"].pop(name, None)
            if name in made.files:
                content = made.files[name]
                index["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        made.files[INDEX] = json.dumps(index, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"
        if signer is not None:
            said = {name: value for name, value in index.items() if name != "files"}
            about = Subject(INDEX, hashlib.sha256(made.files[INDEX]).hexdigest())
            made.files[SIGNATURE] = sign_statement(signer, Statement((about,), EVIDENCE, said))
        return made


def changed(content: bytes, place: int | None = None) -> bytes:
    """With one other byte, else in the middle."""
    place = len(content) // 2 if place is None else place
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
