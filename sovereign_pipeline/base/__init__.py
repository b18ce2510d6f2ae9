"""Shared foundations of every other package: errors, settings, files, text, processes and hosts."""
