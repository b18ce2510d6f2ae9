"""The reference of all files that an institution edits: which files there are, and the page about them.

What belongs here: the list of files. What does not: how one is described (`policy/reference.py`), what its keys mean
(the models).
"""

from sovereign_pipeline.base_models.pinned import BaseModelCard
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.reference import Documented, page
from sovereign_pipeline.privacy.corrections import WordLists
from sovereign_pipeline.suites.cards import SuiteCard

LINE = Documented("line", "data/lines/<line>.yaml", "Recipe of a line", Line)
INSTITUTION = Documented("institution", "data/institution.yaml", "Rules of the institution", Institution)
WORD_LISTS = Documented("privacy", "data/privacy/<line>.yaml", "Corrections of a line's findings", WordLists)
BASE_MODEL = Documented("model", "data/models/<name>.yaml", "Card of a base model", BaseModelCard)
SUITE = Documented("suite", "data/suites/<suite>.yaml", "Card of a published suite", SuiteCard)

INTRODUCTION = """Every key of the files that an institution edits, generated from the program's models by `make docs`.

An unknown key is an error that names the nearest known one, a number in quotes is an error, and a key that is left out
has its default. `sovereign lines check FILE` validates a recipe before anything runs. Editors with the YAML language
server complete and check a file that begins with a line such as
`# yaml-language-server: $schema=../schemas/line.schema.json`; the schemas are in `data/schemas/`."""


def recipe_markdown() -> str:
    """The page `docs/reference/recipe.md`."""
    return page((LINE, INSTITUTION, WORD_LISTS, BASE_MODEL, SUITE), "Recipe reference", INTRODUCTION)
