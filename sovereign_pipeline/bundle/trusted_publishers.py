"""Read `data/publishers/`: whose signatures on models the institution accepts.

`NAME.pub` is a public key, `NAME.yaml` an identity that a sigstore certificate names, and `NAME.json` a trusted root of
sigstore. Any other file is an error, since it would have no effect.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.files import read_bounded
from sovereign_pipeline.policy.recipe_model import RecipeModel, read_yaml

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

LARGEST_KEY = 1 << 16
CURVES = ("secp256r1", "secp384r1", "secp521r1")
ROOT_NAME = re.compile(r"[\w.-]+\.json")
ENDINGS = (".pub", ".yaml", ".json")


class CertifiedIdentity(RecipeModel):
    """Whom a certificate of a sigstore instance must name."""

    issuer: Annotated[str, Field(min_length=1, examples=["https://token.actions.githubusercontent.com"])]
    """Who vouched for the identity to sigstore: the certificate's OIDC issuer, compared exactly."""

    identity: Annotated[str, Field(min_length=1)]
    """The certificate's subject, an address or a workflow with its tag, compared exactly."""

    trusted_root: Annotated[str, Field(examples=["sigstore-root.json"])]
    """The file beside this one with sigstore's trusted root: its certificate authority and its logs."""

    @model_validator(mode="after")
    def _name_a_file(self) -> "CertifiedIdentity":
        if not ROOT_NAME.fullmatch(self.trusted_root):
            raise ValueError("trusted_root must be the name of a .json file beside this one")
        return self

    def is_of(self, identity: str, issuer: str) -> bool:
        """Whether a certificate that names these is this publisher's."""
        return (identity, issuer) == (self.identity, self.issuer)


@dataclass(frozen=True)
class Publishers:
    """The publishers whose signatures count."""

    folder: Path
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


def load_publishers(folder: Path) -> Publishers:
    """Whom a folder names. Raises InputError, RecipeError or IntegrityError for a file that is not what it must be."""
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if path.suffix not in ENDINGS or not path.is_file():
            raise InputError(
                f"{path}: nobody is trusted by such a file.", f"Remove it, or name it as one of *{', *'.join(ENDINGS)}."
            )
    return Publishers(
        folder,
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
