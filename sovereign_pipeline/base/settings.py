"""Define the paths and addresses of this installation, and keep libraries offline."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from sovereign_pipeline.base.errors import InputError

PROJECT_ROOT = Path(__file__).resolve().parents[2]

# Variables that the loaded libraries read: they turn off hub clients, telemetry and kernels that are downloaded at
# first use, and configure threads.
# MLflow expects DO_NOT_TRACK as a word, not as "1".
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
    # A waiting OpenMP thread spins for less than half a millisecond, then sleeps. If threads only spun, they
    # would take processor time from each other on a busy machine. If threads slept at once, they would be woken 20,000
    # times in each step of a training.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "10000",
}


NOT_GIVEN: Any = object()
"""Marker for a field whose default is derived from `home`."""


@dataclass(frozen=True)
class Settings:  # a pydantic model would take 30 ms in every process
    """The paths and addresses of one installation. Each field has an environment variable, such as SOVEREIGN_HOME for
    `home`."""

    home: Path
    """Directory of all output: `artifacts/`, `models/`, `registry.db`, `mlflow/`, `dagster/`, `logs/`."""

    data: Path
    """Directory that the institution edits: `institution.yaml`, `lines/`, `sources/`, …"""

    vault: Path = NOT_GIVEN
    """Directory of encrypted names, outside `home`. Training must not be able to read it."""

    review_secrets: Path = NOT_GIVEN
    """Directory of the seeds and signing keys of open reviews, outside `home`. Only the account that opens, serves and
    closes reviews can read it."""

    keys: Path = NOT_GIVEN
    """Directory of the keys that sign the ledger's checkpoints and the pipeline's transitions, outside `home`. Only
    accounts that write to the registry can read it."""

    corpus: Path = NOT_GIVEN
    """Directory of unscrubbed documents, outside `home`. Only the stages up to the split and the registration get this
    path, and, in a line that splits by author, the training stages."""

    suites: Path = NOT_GIVEN
    """Mirror of published suites, one folder each. Their cards are in `data/suites`."""

    registry_url: str = NOT_GIVEN
    """URL of the database that holds the registry and the ledger."""

    ledger_copy: Path | None = None
    """File on other media to which each ledger entry is written before its act takes effect. If None, there is no
    second copy."""

    mlflow_url: str = NOT_GIVEN
    """URL of the database of MLflow's tracking server and model registry."""

    dagster_url: str | None = None
    """URL of a PostgreSQL database for Dagster's runs and events. If None, Dagster uses SQLite files in `home`."""

    review_user_header: str | None = None
    """Header in which the institution's proxy names the signed-in user of the review page. If None, no header is
    trusted."""

    review_proxies: frozenset[str] = frozenset({"127.0.0.1", "::1"})
    """Addresses of proxies whose user header and X-Forwarded-Proto the review page trusts; separated by spaces in the
    variable."""

    serving: Path = NOT_GIVEN
    """Directory, outside `home`, that contains the hashed tokens of the gateway's callers, and the gateway's journal of
    digests. Only the account that runs the gateway can read it."""

    serving_user_header: str | None = None
    """Header in which the institution's proxy names a caller of the gateway. If None, no header is trusted."""

    serving_roles_header: str = "X-Remote-Roles"
    """Header in which the proxy lists the caller's roles, separated by commas."""

    serving_proxies: frozenset[str] = frozenset({"127.0.0.1", "::1"})
    """Addresses of proxies whose user and roles headers the gateway trusts; separated by spaces in the variable."""

    serving_proxy_secret: Path | None = None
    """File with the secret that the proxy sends as X-Proxy-Secret. Without this file, no header is trusted."""

    auditor_proxy_secret: Path | None = None
    """File with the secret that the proxy in front of the auditor's Dagster sends as X-Proxy-Secret."""

    vllm_python: Path | None = None
    """Python interpreter of vLLM's environment. `institution.yaml` does not contain this path, because an editor of
    that file could then run any program with the gateway's account."""

    otlp_url: str | None = None
    """URL to which trace spans of the gateway's answers are sent, such as http://127.0.0.1:4318/v1/traces. If None, no
    spans are sent."""

    pages_url: str = "http://127.0.0.1:8700"
    """URL of the artifact pages for a browser on this machine. Dagster's asset pages link to it."""

    ui_hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost"})
    """Host names of the web UIs (Dagster, MLflow, artifact pages, review page, gateway), separated by spaces in the
    variable. Behind a proxy: the host names that the proxy serves."""

    def __post_init__(self) -> None:
        """Derive missing fields from `home`, and make every path absolute."""
        home = self.home.absolute()
        of_home: Mapping[str, Path | str] = {
            **{field: home.parent / f"{home.name}-{field}" for field in ("vault", "keys", "corpus", "serving")},
            "review_secrets": home.parent / f"{home.name}-review",
            "suites": home / "suites",
            "registry_url": f"sqlite:///{quote(str(home / 'registry.db'))}",
            "mlflow_url": f"sqlite:///{quote(str(home / 'mlflow' / 'mlflow.db'))}",
        }
        for each in fields(self):
            value = getattr(self, each.name)
            if value is NOT_GIVEN:
                value = of_home[each.name]
            object.__setattr__(self, each.name, value.absolute() if isinstance(value, Path) else value)
        if self.dagster_url is not None:  # Dagster's wait for notifications works only with psycopg 2
            driven = re.sub(r"^postgres(?:ql)?(?:\+\w+)?:", "postgresql+psycopg2:", self.dagster_url)
            object.__setattr__(self, "dagster_url", driven)

    @classmethod
    def from_environment(cls, overrides: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from environment variables. `overrides` take precedence. An empty value counts as unset."""
        environ = {**os.environ, **(overrides or {})}
        given: dict[str, Any] = {"home": PROJECT_ROOT / ".sovereign", "data": PROJECT_ROOT / "data"}
        for each in fields(cls):
            if text := environ.get(VARIABLES[each.name]):
                given[each.name] = _FROM_TEXT[each.type](text)
        return cls(**given)

    def to_environment(self) -> dict[str, str]:
        """Return the variables that give a child process exactly these settings, regardless of the variables that it
        inherits."""
        return {
            # A space means no addresses; an empty value would mean the default.
            variable: " ".join(sorted(value)) or " " if isinstance(value, frozenset) else str(value or "")
            for name, variable in VARIABLES.items()
            for value in [getattr(self, name)]
        }

    @property
    def secret_directories(self) -> dict[str, Path]:
        """The directories that a trainer must not see, by environment variable."""
        secret = ("vault", "review_secrets", "keys", "corpus", "serving")
        return {VARIABLES[name]: getattr(self, name) for name in secret}

    def private_directory_of(self, path: Path) -> str | None:
        """Return the variable of the innermost private directory (`home` or a secret directory) that contains a path.
        Return None if there is none, or if the path is in a `data` directory inside it. Symbolic links are followed."""
        places = {VARIABLES["data"]: self.data, VARIABLES["home"]: self.home, **self.secret_directories}
        holding = [name for name, each in places.items() if path.resolve().is_relative_to(each.resolve())]
        innermost = max(holding, key=lambda name: len(places[name].resolve().parts), default=None)
        return None if innermost == VARIABLES["data"] else innermost

    @property
    def artifacts(self) -> Path:
        return self.home / "artifacts"

    @property
    def privacy_cache(self) -> Path:
        """Cache of what was found in unscrubbed texts, and of what replaces it in each case file: offsets, kinds and
        placeholders. Its keys are digests of texts and case files. The cache may be deleted at any time.

        The cache contains no text. It is stored with the corpus, because anyone who can read a digest can test a guess
        at the text.
        """
        return self.corpus / "cache" / "privacy"

    @property
    def ledger(self) -> Path:
        """Directory of the ledger's signed checkpoints. Store it apart from the ledger's database."""
        return self.home / "ledger"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def caches_key(self) -> Path:
        """Secret that authenticates checkpoints and cached results (`files.read_secret`). Without the secret, both are
        computed again."""
        return self.keys / "caches.key"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.home / "mlflow" / "artifacts"

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    @property
    def vault_public_key(self) -> Path:
        """Public key with which the scrubber adds names to the vault. The public key cannot decrypt names."""
        return self.home / "vault.pub"

    @property
    def transcripts_public_key(self) -> Path:
        """Public key with which a gateway encrypts transcripts. This key cannot decrypt transcripts."""
        return self.home / "transcripts.pub"

    @property
    def pages_port(self) -> int:
        """Port of `pages_url`. Raises InputError if the URL has no valid port."""
        try:
            port = urlsplit(self.pages_url).port
        except ValueError:
            port = None
        if not port:
            raise InputError(
                f"{VARIABLES['pages_url']}: the address {self.pages_url} has no port.",
                "Add the port, as in http://127.0.0.1:8700.",
            )
        return port

    @property
    def home_key(self) -> Path:
        """Random secret (`files.read_secret`) from which the name of SOVEREIGN_HOME in shared databases is derived."""
        return self.home / "home.key"

    @property
    def logs(self) -> Path:
        """Directory for the output of runs and services. The output never contains document text."""
        return self.home / "logs"


CORPUS_VARIABLE = "SOVEREIGN_CORPUS"


@contextmanager
def corpus_withheld() -> Iterator[None]:
    """Remove SOVEREIGN_CORPUS, the path of the unscrubbed text, from the environment of this process and of child
    processes while the block runs."""
    given = os.environ.pop(CORPUS_VARIABLE, None)
    try:
        yield
    finally:
        if given is not None:
            os.environ[CORPUS_VARIABLE] = given


VARIABLES: Mapping[str, str] = {each.name: f"SOVEREIGN_{each.name.upper()}" for each in fields(Settings)}
"""Name of the environment variable of each field, such as `SOVEREIGN_HOME` for `home`."""

_FROM_TEXT: Mapping[Any, Callable[[str], Any]] = {
    str: str,
    str | None: str,
    Path: Path,
    Path | None: Path,
    frozenset[str]: lambda text: frozenset(text.split()),
}
"""Function that parses an environment variable, by the type of the field."""


def go_offline() -> None:
    """Set `OFFLINE_ENVIRONMENT` for this process and its children: no network, and threads that spin only briefly. Call
    this function before a model library is imported."""
    os.environ.update(OFFLINE_ENVIRONMENT)
