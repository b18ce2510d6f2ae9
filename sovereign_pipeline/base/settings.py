"""Paths of this installation, and the environment that keeps libraries off the network."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sovereign_pipeline.base.errors import InputError

PROJECT_ROOT = Path(__file__).resolve().parents[2]

# Each variable was found to be needed by a library this project loads: hub clients, telemetry, kernels fetched on use.
# MLflow reads DO_NOT_TRACK as a word, not as "1".
OFFLINE_ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "USE_HUB_KERNELS": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "ANONYMIZED_TELEMETRY": "False",
    "TOKENIZERS_PARALLELISM": "false",
}


NOT_GIVEN: Any = object()
"""What follows from the home."""


@dataclass(frozen=True)
class Settings:  # no pydantic model: every process would build it anew, in 30 ms
    """Paths and addresses of one installation. Each field has a variable: `home` is SOVEREIGN_HOME, and so on."""

    home: Path
    """Everything that is produced: `artifacts/`, `models/`, `registry.db`, `mlflow/`, `dagster/`, `logs/`."""

    data: Path
    """What the institution edits: `institution.yaml`, `lines/`, `sources/`, …"""

    vault: Path = NOT_GIVEN
    """Encrypted names; outside `home`, and never readable by the training side."""

    review_secrets: Path = NOT_GIVEN
    """Seeds and signing keys of open reviews; outside `home`, for the account that opens, serves and closes them."""

    keys: Path = NOT_GIVEN
    """The keys that sign the ledger's checkpoints and the pipeline's transitions; outside `home`, for the accounts that
    write to the registry."""

    corpus: Path = NOT_GIVEN
    """Documents before they are scrubbed; outside `home`, and given to the stages up to the split alone."""

    suites: Path = NOT_GIVEN
    """The mirror of published suites, a folder each; cards of them are under `data/suites`."""

    registry_url: str = NOT_GIVEN
    """The database of registry and ledger."""

    ledger_copy: Path | None = None
    """A file on other media that gets each entry of the ledger before its act is done; None keeps no such copy."""

    mlflow_url: str = NOT_GIVEN
    """The database of MLflow's tracking server and model registry."""

    review_user_header: str | None = None
    """The header in which the institution's proxy names who signed in; None trusts no header."""

    review_proxies: frozenset[str] = frozenset({"127.0.0.1", "::1"})
    """Addresses from which that header, and X-Forwarded-Proto, are believed; in the variable with spaces between."""

    serving: Path = NOT_GIVEN
    """Hashed tokens of the gateway's callers, and its journal of digests; outside `home`, for the account that
    serves."""

    serving_user_header: str | None = None
    """The header in which the institution's proxy names a caller of the gateway; None trusts no header."""

    serving_roles_header: str = "X-Remote-Roles"
    """The header in which it names the caller's roles, with commas between."""

    serving_proxies: frozenset[str] = frozenset({"127.0.0.1", "::1"})
    """Addresses from which these headers are believed; in the variable with spaces between."""

    serving_proxy_secret: Path | None = None
    """A file with the secret that the proxy sends as X-Proxy-Secret; without it no header is believed."""

    auditor_proxy_secret: Path | None = None
    """A file with the secret that the proxy in front of the auditor's Dagster sends as X-Proxy-Secret."""

    vllm_python: Path | None = None
    """The interpreter of the environment in which vLLM is installed. It is not in `institution.yaml`: whoever may edit
    that file could else run a program as the gateway."""

    otlp_url: str | None = None
    """Where spans of the gateway's answers are sent, such as http://127.0.0.1:4318/v1/traces; None makes none."""

    pages_url: str = "http://127.0.0.1:8700"
    """Where a browser on this machine finds the artifact pages; the links on asset pages lead there."""

    ui_hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost"})
    """Host names under which a browser reaches the web UIs of Dagster and MLflow, the artifact pages, the review
    page and the gateway; in the variable with spaces between. Behind a proxy: the names that it serves."""

    def __post_init__(self) -> None:
        """Fill in what follows from the home, and make every path absolute."""
        home = self.home.absolute()
        of_home: Mapping[str, Path | str] = {
            **{field: home.parent / f"{home.name}-{field}" for field in ("vault", "keys", "corpus", "serving")},
            "review_secrets": home.parent / f"{home.name}-review",
            "suites": home / "suites",
            "registry_url": f"sqlite:///{home / 'registry.db'}",
            "mlflow_url": f"sqlite:///{home / 'mlflow' / 'mlflow.db'}",
        }
        for each in fields(self):
            value = getattr(self, each.name)
            if value is NOT_GIVEN:
                value = of_home[each.name]
            object.__setattr__(self, each.name, value.absolute() if isinstance(value, Path) else value)

    @classmethod
    def from_environment(cls, overrides: Mapping[str, str] | None = None) -> "Settings":
        """From the variables; an override wins over the process's environment, and an empty value is none."""
        environ = {**os.environ, **(overrides or {})}
        given: dict[str, Any] = {"home": PROJECT_ROOT / ".sovereign", "data": PROJECT_ROOT / "data"}
        for each in fields(cls):
            if text := environ.get(VARIABLES[each.name]):
                given[each.name] = _FROM_TEXT[each.type](text)
        return cls(**given)

    def to_environment(self) -> dict[str, str]:
        """The variables from which a child process gets these settings, whatever its own environment says."""
        return {
            # A space: no address at all, which an empty value would not be.
            variable: " ".join(sorted(value)) or " " if isinstance(value, frozenset) else str(value or "")
            for name, variable in VARIABLES.items()
            for value in [getattr(self, name)]
        }

    @property
    def secret_directories(self) -> dict[str, Path]:
        """Variable -> directory, of those that no trainer is given."""
        secret = ("vault", "review_secrets", "keys", "corpus", "serving")
        return {VARIABLES[name]: getattr(self, name) for name in secret}

    @property
    def artifacts(self) -> Path:
        return self.home / "artifacts"

    @property
    def privacy_cache(self) -> Path:
        """What detectors found in unscrubbed texts, by digest: offsets and kinds, no text. May be deleted at any time.

        A digest lets whoever reads it test a guess at a text, so it lies with the corpus.
        """
        return self.corpus / "cache" / "privacy"

    @property
    def ledger(self) -> Path:
        """Signed checkpoints of the ledger, which must not lie in its database."""
        return self.home / "ledger"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.home / "mlflow" / "artifacts"

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    @property
    def vault_public_key(self) -> Path:
        """The only key the training side holds: it can add to the vault and never read it."""
        return self.home / "vault.pub"

    @property
    def transcripts_public_key(self) -> Path:
        """The only key of transcripts that a gateway holds: it can add to them and never read them."""
        return self.home / "transcripts.pub"

    @property
    def pages_port(self) -> int:
        """Raises InputError for an address without a port that there can be."""
        try:
            port = urlsplit(self.pages_url).port
        except ValueError:
            port = None
        if not port:
            raise InputError(
                f"{VARIABLES['pages_url']}: the address {self.pages_url} has no port.", "Write http://127.0.0.1:8700."
            )
        return port

    @property
    def logs(self) -> Path:
        """What runs and services print; never document text."""
        return self.home / "logs"


CORPUS_VARIABLE = "SOVEREIGN_CORPUS"


@contextmanager
def corpus_withheld() -> Iterator[None]:
    """Within it, this process and the children that it starts have no variable that leads to unscrubbed text."""
    given = os.environ.pop(CORPUS_VARIABLE, None)
    try:
        yield
    finally:
        if given is not None:
            os.environ[CORPUS_VARIABLE] = given


VARIABLES: Mapping[str, str] = {each.name: f"SOVEREIGN_{each.name.upper()}" for each in fields(Settings)}
"""Field -> the variable that sets it."""

_FROM_TEXT: Mapping[Any, Callable[[str], Any]] = {
    str: str,
    str | None: str,
    Path: Path,
    Path | None: Path,
    frozenset[str]: lambda text: frozenset(text.split()),
}
"""Type of a field -> its value, from a variable."""


def go_offline() -> None:
    """Set the offline environment for this process and its children. Call before a model library is imported."""
    os.environ.update(OFFLINE_ENVIRONMENT)
