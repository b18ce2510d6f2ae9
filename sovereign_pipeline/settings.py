"""Where things are on this machine, and the environment that keeps libraries off the network.

What belongs here: paths and process-wide environment. What does not: anything an institution decides (`policy/`).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent.parent

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


@dataclass(frozen=True)
class Settings:
    """Paths of one installation.

    home: everything that is produced (`artifacts/`, `models/`, `registry.db`, `mlflow/`, `dagster/`).
    data: what the institution edits (`institution.yaml`, `lines/`, `sources/`, …).
    vault: encrypted names; outside `home`, and never readable by the training side.
    """

    home: Path
    data: Path
    vault: Path

    @classmethod
    def from_environment(cls, overrides: Mapping[str, str] | None = None) -> "Settings":
        """From SOVEREIGN_HOME, SOVEREIGN_DATA and SOVEREIGN_VAULT; `overrides` win over the process's environment."""
        environ = {**os.environ, **(overrides or {})}
        home = Path(environ.get("SOVEREIGN_HOME") or PROJECT_ROOT / ".sovereign").absolute()
        return cls(
            home=home,
            data=Path(environ.get("SOVEREIGN_DATA") or PROJECT_ROOT / "data").absolute(),
            vault=Path(environ.get("SOVEREIGN_VAULT") or home.parent / f"{home.name}-vault").absolute(),
        )

    @property
    def artifacts(self) -> Path:
        return self.home / "artifacts"

    @property
    def privacy_cache(self) -> Path:
        """What detectors found in texts, by digest: offsets and kinds, no text. May be deleted at any time."""
        return self.home / "cache" / "privacy"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def suites(self) -> Path:
        """The mirror of published suites, a folder each (SOVEREIGN_SUITES); cards of them are under `data/suites`."""
        return Path(os.environ.get("SOVEREIGN_SUITES") or self.home / "suites").absolute()

    @property
    def registry_url(self) -> str:
        return os.environ.get("SOVEREIGN_REGISTRY_URL") or f"sqlite:///{self.home / 'registry.db'}"

    @property
    def mlflow_url(self) -> str:
        return os.environ.get("SOVEREIGN_MLFLOW_URL") or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.home / "mlflow" / "artifacts"

    @property
    def review_secrets(self) -> Path:
        """Sealed seeds of open reviews and the key that signs sessions: for the review page's account alone."""
        return self.home / "review"

    @property
    def review_user_header(self) -> str | None:
        """The header in which the institution's proxy names who signed in; None (the default) trusts no header."""
        return os.environ.get("SOVEREIGN_REVIEW_USER_HEADER") or None

    @property
    def review_proxies(self) -> frozenset[str]:
        """Addresses from which that header, and X-Forwarded-Proto, are believed."""
        return frozenset((os.environ.get("SOVEREIGN_REVIEW_PROXIES") or "127.0.0.1 ::1").split())

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    @property
    def vault_public_key(self) -> Path:
        """The only key the training side holds: it can add to the vault and never read it."""
        return self.home / "vault.pub"


def go_offline() -> None:
    """Set the offline environment for this process and its children. Call before a model library is imported."""
    os.environ.update(OFFLINE_ENVIRONMENT)
