"""The options by which an officer names a key, and opening it.

What belongs here: what every command shares that an officer signs with. What does not: what is signed.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from sovereign_pipeline.commands.terminal import out
from sovereign_pipeline.settings import Settings

if TYPE_CHECKING:
    from sovereign_pipeline.signing.keys import Signer
    from sovereign_pipeline.signing.trust import Trust

KeyFile = Annotated[Path | None, typer.Option("--key", help="Your private key, in a file.")]
Token = Annotated[str | None, typer.Option("--token", help="Your key, on a token: the token's label.")]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="A file with the passphrase or PIN; else it is asked for.")
]
Reason = Annotated[str, typer.Option(help="Why; shown wherever the adapter is.")]


def officers_signer(settings: Settings, key: Path | None, token: str | None, passphrase_file: Path | None) -> "Signer":
    """The officer's key. The trust root is looked at first, so that a stranger's passphrase is not asked for long."""
    from sovereign_pipeline.signing.key_sources import asked_passphrase, key_source, open_signer
    from sovereign_pipeline.signing.officers import officer_of, trust_root

    source, trust = key_source(key, token), trust_root(settings)
    mark_demonstration(trust)
    signer = open_signer(source, asked_passphrase(f"Passphrase for {source}", passphrase_file))
    out.print(f"Signing as [bold]{escape(officer_of(trust, signer.keyid).person)}[/]")
    return signer


def mark_demonstration(trust: "Trust") -> None:
    from sovereign_pipeline.signing.trusted import DEMONSTRATION_KEYS

    if trust.is_demonstration:
        out.print(f"[yellow]{DEMONSTRATION_KEYS}[/]: they lie on this machine, and prove nothing")
