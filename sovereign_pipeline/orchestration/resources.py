"""What assets are given: the installation's settings, from which each asset builds its plain-Python workplace."""

import dagster as dg

from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.stage import Launch, Progress, Workplace
from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.errors import NotFoundError
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.workplace import open_workplace


class Installation(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The paths of this installation. An empty one is taken from the environment when an asset runs."""

    home: str = ""
    data: str = ""
    vault: str = ""

    @property
    def settings(self) -> Settings:
        named = {"SOVEREIGN_HOME": self.home, "SOVEREIGN_DATA": self.data, "SOVEREIGN_VAULT": self.vault}
        return Settings.from_environment({name: path for name, path in named.items() if path} or None)

    def workplace(self, line: str, progress: Progress, launch: Launch) -> Workplace:
        """Raises RecipeError or NotFoundError for a line that has no valid recipe."""
        return open_workplace(self.settings, line, progress, launch)


class References(dg.ConfigurableIOManager):
    """Hands a typed reference from asset to asset: never a pickle, never the data itself.

    The reference also becomes the line's current artifact of that kind; whoever uses it verifies every byte.
    """

    installation: dg.ResourceDependency[Installation]

    def handle_output(self, context: dg.OutputContext, obj: ArtifactRef) -> None:
        self._store.make_current(context.partition_key, context.asset_key.path[-1], obj)

    def load_input(self, context: dg.InputContext) -> ArtifactRef:
        kind = context.asset_key.path[-1]
        ref = self._store.current(context.partition_key, kind)
        if ref is None:
            message = f"Line {context.partition_key} has no {kind} yet. Materialize {kind} first."
            raise dg.Failure(message, allow_retries=False) from NotFoundError(message)
        return ref

    @property
    def _store(self) -> ArtifactStore:
        return ArtifactStore(self.installation.settings.artifacts)
