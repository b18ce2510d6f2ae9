"""The reward of the demonstration line `permits-rlhf`: what a reply of the Ministry must have, as far as a program can
see.

Each function gets a list of mappings, one a reply, and returns a number from 0 to 1 for each. It is run in the sandbox:
the standard library is all there is.
"""

import json
import re

DEPARTMENTS = {
    "permits": "Directorate of Permits",
    "fees": "Department of Fees and Accounts",
    "inspection": "Department of Harbour Inspection and Safety",
}
BEGINNING, END = "With reference to your letter of ", "advises as follows."
CITATION = re.compile(r"\b(Article|Section|Item) (\d+) of the ")
LONGEST_RUN = 3
"""Words that may stand in a row twice before a reply counts as repeating itself."""


def opening(rows):
    """The institution's formula: half for its beginning, half for its end in the same line, once."""
    return [_opening(row["reply"]) for row in rows]


def _opening(reply):
    line = reply.strip().split("\n")[0]
    begins = line.startswith(BEGINNING) and reply.count(BEGINNING) == 1
    return 0.5 * begins + 0.5 * (begins and line.endswith(END) and reply.count(END) == 1)


def department(rows):
    """The department that the letter went to, by its whole name, and no other; up to half for the name's beginning."""
    return [_department(row["reply"], DEPARTMENTS[row["department"]]) for row in rows]


def _department(reply, right):
    named = {name for name in DEPARTMENTS.values() if name in reply}
    if named:
        return float(named == {right})
    words = right.split()
    begun = max((count for count in range(1, len(words)) if " ".join(words[:count]) in reply), default=0)
    return 0.5 * begun / len(words)


def citation(rows, files):
    """A provision that exists: one or two citations, all of them right.

    Before a policy cites rightly it must cite at all: a law's name earns a fifth, and a wrong number of it no more.
    """
    laws = json.loads(files["laws.json"])
    return [_citation(row["reply"], laws) for row in rows]


def _citation(reply, laws):
    cited = [_exists(match, laws) for match in CITATION.finditer(reply)]
    if len(cited) > 2 or _repeats(reply):
        return 0.0
    if cited and all(cited):
        return 1.0
    return 0.2 * (sum(law in reply for law in laws) == 1)


def _exists(match, laws):
    cited = match.string[match.end() :]
    law = next((law for law in laws if cited.startswith(law)), None)
    return law is not None and laws[law]["unit"] == match[1] and 1 <= int(match[2]) <= laws[law]["last"]


def _repeats(reply):
    words = reply.split()
    runs = [tuple(words[place : place + LONGEST_RUN]) for place in range(len(words) - LONGEST_RUN + 1)]
    return len(runs) - len(set(runs)) > LONGEST_RUN
