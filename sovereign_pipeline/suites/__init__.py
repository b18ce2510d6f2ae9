"""Read evaluation suites and red-team prompts, and render their prompts."""
