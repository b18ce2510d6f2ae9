"""The header of a table: names of columns that are all different.

What belongs here: refusing one that names two columns alike. What does not: which columns are needed
(`corpus/expected_columns.py`).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.corpus.expected_columns import (
    NAME_THE_COLUMNS,
    NO_KNOWN_NAME,
    is_a_known_name,
    is_table_of_text,
    odd_first_line,
    resembles_a_name,
)

LONGEST_NAME = 60
"""Characters of a column's name that a message shows."""
GIVE_NAMES = "Give every column a name of its own."


def refuse_repeated_columns(path: Path, columns: Sequence[str]) -> None:
    """Raise SourceError where two columns have one name. A cell of a first line that may be a row is not quoted."""
    times = Counter(columns)
    twice = [name for name in times if times[name] > 1]
    if not twice:
        return
    is_text = is_table_of_text(path)
    if is_text and (odd := odd_first_line(columns)) is not None:
        raise SourceError(f"{path}: {odd[0][0].lower()}{odd[0][1:]}", odd[1])
    if not any(name.strip() for name in twice):
        raise SourceError(
            f"{path}: {counted(times[twice[0]], 'column has', 'columns have')} no name in the first line.", GIVE_NAMES
        )
    if is_text and not any(map(resembles_a_name, columns)):
        said = NO_KNOWN_NAME.format(cells=counted(len(columns), "cell"))
        raise SourceError(f"{path}: {said[0].lower()}{said[1:]} Two of them are the same.", NAME_THE_COLUMNS)
    repeated = sum(times[name] - 1 for name in twice)
    shown = [repr(name) for name in twice if len(name) <= LONGEST_NAME and (not is_text or is_a_known_name(name))]
    places = [number for number, name in enumerate(columns, start=1) if name in twice]
    named = f": {and_more(shown)}" if shown else f" (columns {and_more(map(str, places))})"
    raise SourceError(
        f"{path}: {counted(repeated, 'column has', 'columns have')} the name of another column{named}.", GIVE_NAMES
    )
