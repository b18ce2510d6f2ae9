"""Shared foundations of every other package: errors, settings, files, text, processes, web pages and the sandbox."""
