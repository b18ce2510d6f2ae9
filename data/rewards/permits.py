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
CITATION = re.compile(r"\b(Article|Section|Item) (\d+) of the ([A-Z][\w-]*(?: (?:of |for )?[A-Z][\w-]*)*)")
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
    """The department that the letter went to, by its whole name, and no other."""
    return [_department(row["reply"], DEPARTMENTS[row["department"]]) for row in rows]


def _department(reply, right):
    named = {name for name in DEPARTMENTS.values() if name in reply}
    return float(named == {right})


def citation(rows, files):
    """A provision that exists: a reply earns it by one or two citations, all of them right, and loses it by a wrong
    one."""
    laws = json.loads(files["laws.json"])
    return [_citation(row["reply"], laws) for row in rows]


def _citation(reply, laws):
    cited = CITATION.findall(reply)
    right = [
        law in laws and laws[law]["unit"] == unit and 1 <= int(number) <= laws[law]["last"]
        for unit, number, law in cited
    ]
    if len(right) > 2 or _repeats(reply):
        return 0.0
    return float(bool(right) and all(right))


def _repeats(reply):
    words = reply.split()
    runs = [tuple(words[place : place + LONGEST_RUN]) for place in range(len(words) - LONGEST_RUN + 1)]
    return len(runs) - len(set(runs)) > LONGEST_RUN
