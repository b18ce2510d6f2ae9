"""Running a program in the sandbox."""

import textwrap

from sovereign_pipeline.sandbox.sandbox import Limits, run_program
from sovereign_pipeline_tests.waiting import SECONDS


def outcome_of(program: str, limits: Limits | None = None) -> str:
    """With time enough on a busy machine, where a test does not limit it."""
    return run_program(textwrap.dedent(program), limits or Limits(wall_seconds=SECONDS))
