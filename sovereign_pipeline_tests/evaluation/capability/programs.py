"""Running a program in the sandbox."""

import textwrap

from sovereign_pipeline.evaluation.capability.sandbox import Limits, run_program


def outcome_of(program: str, limits: Limits | None = None) -> str:
    return run_program(textwrap.dedent(program), limits)
