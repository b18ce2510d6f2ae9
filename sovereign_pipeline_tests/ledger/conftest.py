"""The ledger is tested on databases that the registry's tests fill."""

from sovereign_pipeline_tests.registry.conftest import *  # noqa: F403
