"""Whom the institution trusts to sign what others publish: the files of `data/publishers/`, under version control.

`NAME.asc` is a PGP key, `NAME.pub` a public key, and `NAME.yaml` an identity that a certificate of sigstore's names.
What belongs here: reading those. What does not: verifying a signature (`pgp.py`, `sigstore_bundles.py`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from sovereign_pipeline.bounded_files import read_bounded
from sovereign_pipeline.errors import InputError, IntegrityError
from sovereign_pipeline.policy.recipe_model import RecipeModel, read_yaml

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

LARGEST_KEY = 1 << 16
CURVES = ("secp256r1", "secp384r1", "secp521r1")
ROOT_NAME = re.compile(r"[\w.-]+\.json")


class CertifiedIdentity(RecipeModel):
    """Whom a certificate of a sigstore instance must name."""

    issuer: Annotated[str, Field(min_length=1, examples=["https://token.actions.githubusercontent.com"])]
    """Who vouched for the identity to sigstore: the certificate's OIDC issuer, compared exactly."""

    identity: Annotated[str, Field(min_length=1)] | None = None
    """The certificate's subject, an address or a workflow with its tag, compared exactly."""

    workflow: Annotated[str, Field(min_length=1)] | None = None
    """The subject without what follows `@`, for wheels: each release has a tag of its own."""

    distributions: tuple[str, ...] = ()
    """Python distributions that this identity attests, in the index's spelling. Each of their wheels must then be
    attested by it, and it counts for nothing else."""

    trusted_root: Annotated[str, Field(examples=["sigstore-root.json"])]
    """The file beside this one with sigstore's trusted root: its certificate authority and its logs."""

    @model_validator(mode="after")
    def _name_one_signer(self) -> "CertifiedIdentity":
        if (self.identity is None) == (self.workflow is None):
            raise ValueError("one of identity and workflow must be there, and not both")
        if self.workflow is not None and not self.distributions:
            raise ValueError("workflow stands for any tag, so it is for wheels alone: name their distributions")
        if self.workflow is not None and "@" in self.workflow:
            raise ValueError("workflow is what precedes '@'; a subject with its tag is an identity")
        if not ROOT_NAME.fullmatch(self.trusted_root):
            raise ValueError("trusted_root must be the name of a .json file beside this one")
        if wrong := [each for each in self.distributions if each != index_name(each)]:
            raise ValueError(f"distributions: '{wrong[0]}' is '{index_name(wrong[0])}' in an index")
        return self

    def is_of(self, identity: str, issuer: str) -> bool:
        """Whether a certificate that names these is this publisher's."""
        if issuer != self.issuer:
            return False
        if self.workflow is not None:
            return identity.startswith(f"{self.workflow}@")
        return identity == self.identity


@dataclass(frozen=True)
class Publishers:
    """The publishers whose signatures count."""

    folder: Path
    pgp: tuple[Path, ...]
    keys: Mapping[str, "EllipticCurvePublicKey"]
    """By the name of its file, without its ending."""
    identities: Mapping[str, CertifiedIdentity]
    """By the name of its file, without its ending."""

    def by_root(self) -> Iterator[tuple[Path, dict[str, CertifiedIdentity]]]:
        """Each trusted root, with the identities that are to be certified under it."""
        for root in sorted({each.trusted_root for each in self.identities.values()}):
            yield (
                self.folder / root,
                {name: each for name, each in self.identities.items() if each.trusted_root == root},
            )


def index_name(distribution: str) -> str:
    """A distribution's name as package indexes spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def load_publishers(folder: Path) -> Publishers:
    """Raises InputError, RecipeError or IntegrityError for a file that is not what its name says."""
    return Publishers(
        folder,
        tuple(sorted(folder.glob("*.asc"))),
        {path.stem: _public_key(path) for path in sorted(folder.glob("*.pub"))},
        {path.stem: _identity(path) for path in sorted(folder.glob("*.yaml"))},
    )


def _identity(path: Path) -> CertifiedIdentity:
    identity = read_yaml(CertifiedIdentity, path)
    if not (path.parent / identity.trusted_root).is_file():
        raise InputError(
            f"{path}: there is no {identity.trusted_root} beside it.",
            "Fetch the trusted root of the sigstore instance, and put it there.",
        )
    return identity


def _public_key(path: Path) -> "EllipticCurvePublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    hint = "Put the publisher's public key there: PEM, on P-256, P-384 or P-521."
    try:
        key = load_pem_public_key(read_bounded(path, LARGEST_KEY, hint))
    except (ValueError, UnsupportedAlgorithm):
        raise IntegrityError(f"{path}: this is no public key.", hint) from None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise IntegrityError(f"{path}: the key is of another kind.", hint)
    return key
