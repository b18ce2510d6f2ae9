"""What assets and sensors are given: the settings of this installation, and the references from asset to asset.

Neither has a configuration: paths come from the environment alone, so that no launchpad and no run configuration can
put another policy beneath a line.
"""

import dagster as dg

from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.errors import NotFoundError
from sovereign_pipeline.settings import Settings

NO_CONFIGURATION: dict[str, dg.Field] = {}
"""Refuses every key. Dagster takes a resource without a schema to accept anything."""


class References(dg.IOManager):
    """Passes a typed reference from asset to asset: never a pickle, never the data itself.

    The reference also becomes the line's current artifact of that kind; whoever uses it verifies every byte.
    """

    def __init__(self, settings: Settings) -> None:
        self._store = ArtifactStore(settings.artifacts)

    def handle_output(self, context: dg.OutputContext, obj: ArtifactRef) -> None:
        self._store.make_current(context.partition_key, context.asset_key.path[-1], obj)

    def load_input(self, context: dg.InputContext) -> ArtifactRef:
        kind = context.asset_key.path[-1]
        ref = self._store.current(context.partition_key, kind)
        if ref is None:
            error = NotFoundError(f"Line {context.partition_key} has no {kind} yet.", f"Materialize {kind} first.")
            raise dg.Failure(str(error), allow_retries=False) from error
        return ref


def resources(settings: Settings | None = None) -> dict[str, dg.ResourceDefinition]:
    """The resources by name. settings: None takes them from the environment of the process that runs the step."""

    def installation(_: dg.InitResourceContext) -> Settings:
        return settings or Settings.from_environment()

    def references(context: dg.InitResourceContext) -> References:
        return References(context.resources.installation)

    return {
        "installation": dg.ResourceDefinition(installation, config_schema=NO_CONFIGURATION),
        "references": dg.IOManagerDefinition(
            references, config_schema=NO_CONFIGURATION, required_resource_keys={"installation"}
        ),
    }
