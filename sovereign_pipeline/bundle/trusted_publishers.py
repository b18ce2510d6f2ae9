"""Whom the institution trusts to sign what others publish: the files of `data/publishers/`, under version control.

`NAME.asc` is a PGP key, `NAME.pub` a public key, `NAME.yaml` an identity that a certificate of sigstore's names, and
`NAME.json` a trusted root of sigstore's. Nothing else may lie there: a rule in a file that nobody reads binds nobody.
What belongs here: reading those. What does not: verifying a signature (`pgp.py`, `sigstore_bundles.py`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from packaging.utils import canonicalize_name, is_normalized_name
from pydantic import Field, model_validator

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.files import read_bounded
from sovereign_pipeline.policy.recipe_model import RecipeModel, read_yaml

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

LARGEST_KEY = 1 << 16
CURVES = ("secp256r1", "secp384r1", "secp521r1")
ROOT_NAME = re.compile(r"[\w.-]+\.json")
WORKFLOW = re.compile(r"https://[^@]+")
ENDINGS = (".asc", ".pub", ".yaml", ".json")


class CertifiedIdentity(RecipeModel):
    """Whom a certificate of a sigstore instance must name."""

    issuer: Annotated[str, Field(min_length=1, examples=["https://token.actions.githubusercontent.com"])]
    """Who vouched for the identity to sigstore: the certificate's OIDC issuer, compared exactly."""

    identity: Annotated[str, Field(min_length=1)] | None = None
    """The certificate's subject, an address or a workflow with its tag, compared exactly."""

    workflow: Annotated[str, Field(min_length=1)] | None = None
    """The subject without its tag, for wheels: each release has one of its own. On a branch it is not this workflow,
    since whoever can push a branch can change what runs there."""

    distributions: tuple[str, ...] = ()
    """Python distributions that this identity attests, in the index's spelling. Each of their wheels must then be
    attested by it, or by another that names the same, and it counts for nothing else."""

    trusted_root: Annotated[str, Field(examples=["sigstore-root.json"])]
    """The file beside this one with sigstore's trusted root: its certificate authority and its logs."""

    @model_validator(mode="after")
    def _name_one_signer(self) -> "CertifiedIdentity":
        if (self.identity is None) == (self.workflow is None):
            raise ValueError("one of identity and workflow must be there, and not both")
        if self.workflow is not None and not self.distributions:
            raise ValueError("workflow stands for any tag, so it is for wheels alone: name their distributions")
        if self.workflow is not None and not WORKFLOW.fullmatch(self.workflow):
            raise ValueError(
                "workflow must begin with https:// and end before '@'; a subject with its tag is an identity"
            )
        if not ROOT_NAME.fullmatch(self.trusted_root):
            raise ValueError("trusted_root must be the name of a .json file beside this one")
        if wrong := [each for each in self.distributions if not is_normalized_name(each)]:
            raise ValueError(
                f"distributions: an index has no '{wrong[0]}'; '{canonicalize_name(wrong[0])}' may be meant"
            )
        return self

    def is_of(self, identity: str, issuer: str) -> bool:
        """Whether a certificate that names these is this publisher's."""
        if issuer != self.issuer:
            return False
        if self.workflow is not None:
            return identity.startswith(f"{self.workflow}@refs/tags/")
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


def load_publishers(folder: Path) -> Publishers:
    """Whom a folder names. Raises InputError, RecipeError or IntegrityError for a file that is not what it must be."""
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if path.suffix not in ENDINGS or not path.is_file():
            raise InputError(
                f"{path}: nobody is trusted by such a file.", f"Remove it, or name it as one of *{', *'.join(ENDINGS)}."
            )
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
