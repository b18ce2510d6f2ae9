"""The command line `sovereign`: one module for each group of commands."""
