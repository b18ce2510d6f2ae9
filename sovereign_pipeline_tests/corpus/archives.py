"""Write invented archives of letters as offices keep them, with the truth of which reply answers which letter.

Three archives, one for each rule: file names, a register, and reference numbers within the texts.
"""

import csv
import datetime
import io
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sovereign_pipeline_tests.corpus import mailboxes, office
from sovereign_pipeline_tests.examples import examples

ARABIC_DIGITS = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
PERSIAN_DIGITS = str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")


_SUFFIXES = (".docx", ".docx", ".txt", ".pdf", ".odt", ".txt", ".html", ".rtf", ".docx", ".md")


@dataclass
class Archive:
    """Files of a folder, and what must become of them."""

    files: dict[str, bytes] = field(default_factory=dict)
    key: dict[str, str] = field(default_factory=dict)
    """Path -> the document that it holds. Copies have the same."""
    pairs: set[tuple[str, str]] = field(default_factory=set)
    """Letter and reply, as keys."""

    def put(self, path: str, text: str, key: str = "") -> str:
        """Add a file, and return the key of its document: its path, unless it is a copy."""
        suffix = path[path.rindex(".") :]
        assert path not in self.files, path
        self.files[path] = office.WRITERS[suffix](text)
        self.key[path] = key or path
        return self.key[path]

    def write(self, folder: Path) -> None:
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def figures(self, rows: Iterable[Mapping[str, Any]]) -> tuple[float, float, set[tuple[str, ...]]]:
        """Return precision, recall, and the wrong and the missing pairs, of the outcomes in `files.jsonl`."""
        found = dict[str, set[str]]()
        for row in rows:
            if row["outcome"] == "row":
                found.setdefault(row["row"], set()).add(self.key.get(row["path"], row["path"]))
        made, truth = set(map(frozenset, found.values())), set(map(frozenset, self.pairs))
        right = len(made & truth)
        unlike = {tuple(sorted(each)) for each in made ^ truth}
        return right / max(1, len(made)), right / len(truth), unlike


def _day(number: int) -> datetime.date:
    return datetime.date(2024, 1, 8) + datetime.timedelta(days=number)


def by_path(form: str, cases: int = 40, seed: int = 3) -> Archive:
    """Return an archive with the answer in its file names. form: a key of FORMS."""
    draw, made = random.Random(f"{form}{seed}"), Archive()
    letter_at, reply_at, day_as, case_as = FORMS[form]
    for number in range(cases):
        language = ("en", "ar")[number % 2]
        case = case_as(number)
        day, kind = _day(3 * number), draw.choice(_SUFFIXES)

        def at(
            pattern: str,
            day: datetime.date,
            suffix: str,
            case: str = case,
        ) -> str:
            return pattern.format(case=case, date=day.strftime(day_as)) + suffix

        def body(language: str = language) -> str:
            return mailboxes._prose(draw, language, f"ZP{draw.randrange(10**6):06d}Q")

        asked = body()
        letter = made.put(at(letter_at, day, kind), asked)
        if number % 4 == 3:  # the letter in another format
            other = ".pdf" if kind != ".pdf" else ".docx"
            made.put(at(letter_at, day, other), asked, letter)
        if number % 10 == 9:  # no reply
            continue
        if "{date}" in letter_at and number % 20 == 11:  # the office wrote first, and has not replied yet
            made.put(at(reply_at, day - datetime.timedelta(days=9), kind), body())
            continue
        later, answer = day + datetime.timedelta(days=5), body()
        reply_kind = draw.choice(_SUFFIXES)
        name = at(reply_at, later, reply_kind)
        reply = made.put(name, answer)
        made.pairs.add((letter, reply))
        folder, _, last = name.rpartition("/")
        prefix = f"{folder}/" * bool(folder)
        if number % 6 == 1:  # an open file's lock
            made.files[f"{prefix}~${last[2:]}"] = b"\x05Clerk"
        if number % 6 == 2:
            draft = {"en": "draft", "ar": "مسودة"}[language]
            made.put(f"{prefix}{last.removesuffix(reply_kind)} {draft}{reply_kind}", answer + "\n\n???")
        if number % 6 == 3:
            made.put(f"{prefix}Copy of {last}", answer, reply)
        if number % 6 == 4:
            made.put(f"{prefix}{last.removesuffix(reply_kind)} (1){reply_kind}", answer, reply)
        if "{date}" in letter_at and number % 5 == 2:  # two more rounds of letters
            for turn in (1, 2):
                again = day + datetime.timedelta(days=20 * turn)
                letter = made.put(at(letter_at, again, kind), body())
                answered = again + datetime.timedelta(days=4)
                made.pairs.add((letter, made.put(at(reply_at, answered, reply_kind), body())))
        if "{date}" in letter_at and number % 13 == 5:  # two letters, one reply: which one it answers cannot be told
            made.pairs.discard((letter, reply))
            made.put(at(letter_at, day + datetime.timedelta(days=2), kind), body())
        if number % 20 == 7:  # a reply whose letter was lost
            made.put(at(reply_at, day, ".txt", case_as(1000 + number)), body())
        if number % 20 == 8:
            made.files[f"{prefix}photo {number}.jpg"] = b"\xff\xd8\xff"
    made.files["Thumbs.db"] = b"x"
    return made


FORMS: dict[str, tuple[str, str, str, Callable[[int], str]]] = {
    "case folders, ISO dates": (
        "{case}/{date}-in", "{case}/{date}-out", "%Y-%m-%d", lambda n: f"PRM-2024-{n:04d}",
    ),
    "case folders with a title, dates with dots": (
        "cases/{case}/{date} Incoming", "cases/{case}/{date} Outgoing", "%d.%m.%Y", lambda n: f"{n:03d} Slipway, Qurm",
    ),
    "Arabic names, the date behind": (
        "{case}/وارد {date}", "{case}/صادر {date}", "%d-%m-%Y", lambda n: f"معاملة {n}",
    ),
    "two folders": ("Incoming/{case}", "Outgoing/{case}", "", lambda n: f"2024_{n:04d}"),
    "by year, in capitals": (
        "2024/{case}/LETTER", "2024/{case}/REPLY", "", lambda n: f"Case {n}",
    ),
    "one folder": ("{case} letter", "{case} reply", "", lambda n: f"2024-{n:04d}"),
    "the date first": ("{date}_{case}_in", "{date}_{case}_out", "%Y%m%d", lambda n: f"HB{n:05d}"),
}  # fmt: skip


def by_table(letters: int = 80, seed: int = 5) -> Archive:
    """Return an archive whose file names tell nothing, and a register that names letters and replies."""
    draw, made = random.Random(seed), Archive()
    register = list[dict[str, str]]()
    for number in range(letters):
        language = ("en", "ar")[number % 2]

        def put(language: str = language, number: int = number) -> str:
            name = draw.choice(("scan", "Letter of the company", "خطاب رقم", "doc"))
            path = f"{draw.choice(('a', 'b/2024', 'البريد'))}/{name} {len(made.files):04d}{draw.choice(_SUFFIXES)}"
            return made.put(path, mailboxes._prose(draw, language, f"ZT{number:05d}Q"))

        letter = put()
        row = {"request": letter, "reply": "", "case": f"C-{number}", "date": f"{_day(number)}"}
        register.append(row)
        if number % 10 == 9:  # not answered yet
            continue
        reply = put()
        row["reply"] = reply
        if number % 10 == 4:  # the register leaves the suffix out
            row["request"], row["reply"] = (each[: each.rindex(".")] for each in (letter, reply))
        if number % 10 == 5:  # as Windows writes paths
            row["request"], row["reply"] = letter.replace("/", "\\"), reply.replace("/", "\\")
        if number % 10 == 6:
            row["request"], row["reply"] = f"./{letter}", f" {reply} "
        if number % 20 == 7:  # a second reply
            register.append({**row, "reply": put()})
            continue
        made.pairs.add((letter, reply))
    put()  # a file that the register lacks
    stream = io.StringIO()
    table = csv.DictWriter(stream, ["request", "reply", "case", "date"])
    table.writeheader()
    table.writerows(register)
    made.files["register.csv"] = b"\xef\xbb\xbf" + stream.getvalue().encode()
    return made


SENDERS: tuple[Callable[[int], str], ...] = (
    lambda n: f"2024/{n}",
    lambda n: f"{n}/2024",
    lambda n: f"2024-{n}",
    lambda n: f"GTC/2024/{n}",
    lambda n: f"م/2024/{n}",
    lambda n: f"MEM/4/12/{n}",
    lambda n: f"Ares(2024){100000 + n}",
    lambda n: f"B-{3000 + n}",
    lambda n: f"{40000 + n}",
    lambda n: f"و.ت/{n}/2024",
    lambda n: f"KV-7.2/2024/{n}",
    lambda n: f"2024/DG4/{n}",
)
"""How those who write to the office number their letters."""


def _turned(number: str) -> str:
    """Return `2024/17` as `17/2024`, and the reverse."""
    for mark in "/-":
        parts = number.split(mark)
        if len(parts) == 2 and "2024" in parts and all(part.isdigit() for part in parts):
            return mark.join(reversed(parts))
    return number


WRITTEN: tuple[Callable[[str], str], ...] = (
    lambda n: n,
    lambda n: n.replace("/", "-") if "-" not in n else n.replace("-", "/"),
    lambda n: n.translate(ARABIC_DIGITS),
    lambda n: n.replace("/", " / "),
    _turned,
    lambda n: n,
    lambda n: n.lower(),
    lambda n: n.replace("-", "–").replace("/", "–"),
    lambda n: n.translate(PERSIAN_DIGITS),
    lambda n: f"\u200f{n}\u200f",
    lambda n: f"({n})",
    lambda n: n.replace("2024/", "2024/0") if n.startswith("2024/") else n,
    lambda n: n.replace("/", "\\"),
)
"""How a number is written when it is cited."""

OWN, CITED, OTHER_NUMBERS, _DATES = (examples(__file__, each) for each in ("own", "cited", "other numbers", "dates"))


def by_reference(letters: int = 180, seed: int = 11, in_two_folders: bool = False) -> Archive:
    """Return an archive in which each reply cites the number of the letter that it answers, and file names tell
    nothing, or only who wrote: with `in_two_folders`, letters and replies are counted separately."""
    draw, made = random.Random(seed), Archive()
    numbers = list[str]()
    ours = 0

    def cycle(options: Sequence[Any], place: int) -> Any:
        return options[place % len(options)]

    def own_number(language: str) -> str:
        nonlocal ours
        ours += 1
        return f"HB/2024/{7000 + ours}" if language == "en" else f"ه.م/{7000 + ours}/2024"

    def written(language: str, day: datetime.date) -> str:
        text = day.strftime(draw.choice(_DATES[language]))
        return text.translate(ARABIC_DIGITS) if language == "ar" and draw.random() < 0.5 else text

    def letter(
        language: str,
        number: str,
        day: datetime.date,
        cites: str = "",
        others: int = 1,
        form: int = 0,
        folder: str = "Incoming",
    ) -> tuple[str, str]:
        """Add a letter, and return its key and text. cites: sentence or line that cites another letter."""
        own = cycle(OWN[language], form).format(n=number, d=written(language, day)) if number else ""
        prose = mailboxes._prose(draw, language, f"ZR{len(made.files):05d}Q").split("\n\n")
        traps = [
            cycle(OTHER_NUMBERS[language], draw.randrange(99)).format(
                x=draw.choice(numbers or ["2023/1"]), d=written(language, day)
            )
            for _ in range(others)
        ]
        is_line = cites.endswith(("}", "\n")) or not cites.endswith(".")
        head = [own, *([cites] if cites and is_line else [])]
        body = [prose[0], *([cites] if cites and not is_line else []), *prose[1:-1], *traps, prose[-1]]
        text = "\n".join(head).strip() + "\n\n" + "\n\n".join(body)
        return put(text, day, folder=folder), text

    def put(text: str, day: datetime.date, suffix: str = "", key: str = "", folder: str = "Outgoing") -> str:
        if in_two_folders:
            place = sum(path.startswith(folder) for path in made.files)
            return made.put(f"{folder}/{place:04d}{suffix or draw.choice(_SUFFIXES)}", text, key)
        name = draw.choice((f"{len(made.files):05d}", f"IMG {len(made.files)}", f"مستند {len(made.files)}"))
        return made.put(f"{day:%Y}/{day:%m}/{name}{suffix or draw.choice(_SUFFIXES)}", text, key)

    def reply(language: str, cited: str, day: datetime.date, form: int, way: int, **how: Any) -> tuple[str, str, str]:
        """Add a reply of the office, and return its key, text and number."""
        own, sentence = own_number(language), cycle(CITED[language], form)
        cites = sentence.format(n=cycle(WRITTEN, way)(cited), d=written(language, day), o=own)
        has_own = "{o}" in sentence
        key, text = letter(language, "" if has_own else own, day, cites, form=form, folder="Outgoing", **how)
        return key, text, own

    for place in range(letters):
        language = ("en", "ar")[place % 2]
        number = cycle(SENDERS, place // 2)(place + 11)
        day = _day(place)
        asked, _ = letter(language, number, day, others=place % 2, form=place // 2)
        numbers.append(number)
        later = day + datetime.timedelta(days=6)
        scenario = place % 18
        if scenario == 3:  # not answered
            continue
        if scenario == 8 and place % 4 == 0:  # the letter that it answers was lost
            reply(language, f"LOST/{place}", later, place, 0)
            continue
        answer, answer_text, own = reply(language, number, later, place // 2, place // 3)
        if scenario == 5 and place % 4 == 1:  # an acknowledgement before: which one is the answer cannot be told
            reply(language, number, later, place + 1, 0)
            continue
        made.pairs.add((asked, answer))
        if scenario == 6:  # the same reply, signed and scanned, under another name
            put(answer_text, later, ".pdf" if language != "ar" else ".odt", answer)
        if scenario == 9:  # a second round, whose letter cites our reply, and whose reply cites both
            back = cycle(CITED[language], place).format(n=own, d=written(language, later), o=number + "0")
            second = f"{number}9" if number[-1].isdigit() else f"9{number}"
            again, _ = letter(
                language, "" if "{o}" in cycle(CITED[language], place) else second, later, back, 0, form=0
            )
            if "{o}" in cycle(CITED[language], place):
                second = number + "0"
            final, _, _ = reply(language, second, later + datetime.timedelta(days=9), place + 3, 0)
            made.pairs.add((again, final))
        if scenario == 12:  # a reply that names an earlier letter of the case, which has its own reply
            earlier = f"{number}7"
            other, _ = letter(language, earlier, later, others=0)
            more = {
                "en": f"We also recall your earlier letter No. {number}.",
                "ar": f"ونذكر بكتابكم السابق رقم {number}.",
            }
            own = own_number(language)
            head = {"en": f"Our ref: {own}\nYour ref: {earlier}", "ar": f"الرقم: {own}\nمرجعكم: {earlier}"}[language]
            key = put(f"{head}\n\n{mailboxes._prose(draw, language, f'ZR{place:05d}Q')}\n\n{more[language]}", later)
            made.pairs.add((other, key))
        if scenario == 15 and place % 4 == 1:  # we wrote first
            first = own_number(language)
            letter(language, first, day, others=0, folder="Outgoing")
            back = {"en": f"Your ref: {first}", "ar": f"مرجعكم: {first}"}[language]
            theirs = f"{number}5"
            again, _ = letter(language, theirs, later, back, 0)
            last, _, _ = reply(language, theirs, later, place + 5, 0)
            made.pairs.add((again, last))
        if scenario == 16:
            made.files[f"2024/~${place}.docx"] = b"\x05Clerk"
            draft = {"en": "draft", "ar": "مسودة"}[language]
            made.put(f"2024/{draft} {place}.docx", answer_text.replace(".", "", 1) + "\n\n???")
    return made
