"""Variants of one small file as a table of text: delimiters, quotes, headers; each with its expected outcome."""

import csv
import io

from sovereign_pipeline_tests.corpus.dirty_files import (
    ROWS,
    Write,
    content,
    csv_text,
    everywhere,
    rows,
    table,
    with_links,
)
from sovereign_pipeline_tests.corpus.first_file import ALL, Read, Stop, Variant, broken, stops_all


def one_column(delimiter: str) -> Stop:
    return Stop(f"Its header is one column, with {delimiter} in it", f"Set `delimiter: {delimiter}`")


def _swallowed(first: int, last: int, column: str) -> Write:
    """A table in which a cell's closing quote is missing, and another row has one too many in the same column."""

    def lose(text: str) -> str:
        lines = text.split("\r\n")
        cells = [line.split(",") for line in lines]
        place = cells[0].index(column)
        cells[first][place] = f'"{cells[first][place]}'
        cells[last][place] = f'{cells[last][place]}"'
        return "\r\n".join(",".join(each) for each in cells)

    return table(with_links(";".join), edit=lose)


def _spaced(text: str) -> str:
    """Every cell in quotes, and a space behind each delimiter."""
    return "".join(
        ", ".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in csv.reader(io.StringIO(text))
    )


def _space_before(text: str) -> str:
    return text.replace(',"', ', "')


TABLES: dict[str, tuple[Variant, ...]] = {
    "Tables of text": (
        Variant("commas", "a.csv", table(), ALL),
        Variant("all cells in quotes, LF", "a.csv", table(quoting=csv.QUOTE_ALL, end="\n"), ALL),
        Variant("line ends of CR alone", "a.csv", table(end="\r"), ALL),
        Variant("line breaks in a cell", "a.csv", table(rows({"response": "The lamp\nis\r\nmended"})), ALL),
        Variant("tabs", "a.tsv", table(delimiter="\t"), ALL),
        Variant("semicolons", "a.csv", table(delimiter=";"), one_column('";"')),
        Variant("semicolons, named", "a.csv", table(delimiter=";"), ALL, {"delimiter": ";"}),
        Variant("tabs in CSV", "a.csv", table(delimiter="\t"), one_column('"\\t"')),
        Variant("bars", "a.csv", table(delimiter="|"), one_column('"|"')),
        Variant("commas in TSV", "a.tsv", table(), one_column('","')),
        Variant(
            "a first line for Excel",
            "a.csv",
            table(delimiter=";", edit=lambda text: f"sep=;\n{text}"),
            Stop("a note for Excel", "Delete that line"),
            {"delimiter": ";"},
        ),
        Variant(
            "a title above the header",
            "a.csv",
            table(edit=lambda text: f"All letters of this year\n{text}"),
            Stop("Its first line is a comment or a title", "Delete the lines above"),
        ),
        Variant(
            "no header",
            "a.csv",
            table(edit=lambda text: text.split("\r\n", 1)[1]),
            Stop("Its first line seems to be a row", "Write the names"),
        ),
        Variant(
            "two columns of one name",
            "a.csv",
            table(edit=lambda text: text.replace("author", "subject", 1)),
            Stop("the name of another column: 'subject'", "a name of its own"),
        ),
        Variant(
            "no header, and two cells of the first row are the same",
            "a.csv",
            table(everywhere(author="lamps", date="x", linked=""), edit=lambda text: text.split("\r\n", 1)[1]),
            Stop("its first line seems to be a row", "Write the names"),
        ),
        Variant(
            "a title in one cell of many",
            "a.csv",
            table(edit=lambda text: f"The lamp is out{',' * 10}\r\n{text}"),
            Stop("its first line is a comment or a title", "Delete the lines above"),
        ),
        Variant(
            "a title in every cell",
            "a.csv",
            table(edit=lambda text: f"{','.join(['The lamp is out'] * 11)}\r\n{text}"),
            Stop("its first line is a comment or a title", "Delete the lines above"),
        ),
        Variant(
            "two columns without a name",
            "a.csv",
            table(edit=lambda text: text.replace("author", "", 1).replace("subject", "", 1)),
            Stop("2 columns have no name in the first line", "a name of its own"),
        ),
        Variant(
            "two columns of one name that is not known",
            "a.csv",
            table(edit=lambda text: text.replace("author", "mended", 1).replace("case", "mended", 1)),
            Stop("the name of another column (columns 2, 4)", "a name of its own"),
        ),
        Variant(
            "the same in capitals",
            "a.csv",
            table(everywhere(Subject="x")),
            Stop("the columns 'subject' and 'Subject' have the same name", "Rename"),
        ),
        Variant(
            "a quote is missing",
            "a.csv",
            table(edit=lambda text: text.replace("The lamp is m", '"The lamp is m', 1)),
            Stop("from line 2: not CSV", "Correct the quotes"),
        ),
        *(
            Variant(
                f"quotes are lost, so that rows {first} to {last} stand in one '{column}'",
                "a.csv",
                _swallowed(first, last, column),
                Stop(f"lines {first + 1} to {last + 1}: a quoted cell of one row seems to hold whole", "Correct the"),
            )
            for first, last, column in ((2, 3, "request"), (1, 5, "response"), (3, 4, "id"), (1, 6, "subject"))
        ),
        Variant(
            "lines like cells in a letter",
            "a.csv",
            table(rows({"response": "Mended,\n4669, lamp, lamps,\n1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\nand"})),
            ALL,
        ),
        Variant("spaces before quotes", "a.csv", table(edit=_spaced), ALL),
        Variant("spaces before quotes alone", "a.csv", table(rows({"subject": " x, y"}), edit=_space_before), ALL),
        Variant(
            "spaces behind quotes",
            "a.csv",
            table(quoting=csv.QUOTE_ALL, edit=lambda text: text.replace('",', '" ,')),
            Stop("the header row is not CSV", "Correct the quotes"),
        ),
        Variant(
            "a cell of three megabytes",
            "a.csv",
            table(rows({"request": "The lamp, is out. " * 170_000})),
            broken("longer than 1,000,000 bytes"),
        ),
        Variant(
            "two exports in one, each with a header",
            "a.csv",
            content(csv_text(ROWS[:3]).encode("utf-8-sig") + csv_text(ROWS[3:]).encode("utf-8-sig")),
            Read(6, 1, reason="repeats the header: several exports in one file"),
        ),
        Variant(
            "two exports in one, of other columns",
            "a.csv",
            content((csv_text(ROWS[:3]) + csv_text([dict(reversed(row.items())) for row in ROWS[3:]])).encode()),
            Stop("line 5: the header stands there again with its columns in another order", "Split the file"),
        ),
        Variant(
            "quotes with backslashes",
            "a.csv",
            table(quoting=csv.QUOTE_ALL, edit=lambda text: text.replace("mended", '\\"mended\\"', 1)),
            Stop("from line 2: not CSV", "without a backslash"),
        ),
        Variant(
            "a row is too short",
            "a.csv",
            table(edit=lambda text: f"{text}4700,x\r\n"),
            Read(6, 1, reason="has 2 cells where the header has 11"),
        ),
        Variant(
            "a line of totals",
            "a.csv",
            table(edit=lambda text: f"{text}Total: 6{',' * 10}\r\n"),
            Read(6, 1, reason="missing field: case, date, language, subject, request, response"),
        ),
        Variant(
            "a delimiter behind each row",
            "a.csv",
            table(edit=lambda text: text.replace("\r\n", ",\r\n").replace(",\r\n", "\r\n", 1)),
            stops_all("has 12 cells where the header has 11", "correct `delimiter`"),
        ),
    )
}
