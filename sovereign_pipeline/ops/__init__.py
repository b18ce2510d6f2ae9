"""Bundles that cross the air gap, and backups of an installation."""
