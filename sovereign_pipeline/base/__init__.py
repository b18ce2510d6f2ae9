"""What every other package builds on: errors, settings, files, text, processes and hosts."""
