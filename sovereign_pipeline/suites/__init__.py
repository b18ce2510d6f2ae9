"""Read evaluation suites and red-team prompts, and word their prompts."""
