"""What a text quotes: the blocks of a letter that forwards or answers another one.

What belongs here: recognising where a quoted letter begins, in English and Arabic. What does not: comparing the blocks
(`texts.py`). A mark that is not recognised costs little: the whole text is always compared too, so a letter that stands
in it whole is found all the same; only a part of a letter in a much longer text may be missed.
"""

import re


def _spaced(phrases: str) -> str:
    """For a verbose expression, where a bare space means nothing."""
    return phrases.replace(" ", r"[ ]")


_QUOTE_MARK = re.compile(r"^[ \t]*((?:>[ \t]?)+)", re.MULTILINE)

_FORWARDED = _spaced(
    r"original message|forwarded message|begin forwarded message|forwarded by|"
    r"الرسالة الأصلية|رسالة أصلية|النص الأصلي|الرسالة المعاد توجيهها|رسالة معاد توجيهها|رسالة مُعاد توجيهها|"
    r"رسالة محولة|رسالة مُحوّلة|الرسالة المحولة|بدء الرسالة"
)
_LABEL = _spaced(
    r"(?:from|sent|date|to|cc|subject|"
    r"من|المرسل|أرسلت|أُرسلت|أرسل|تاريخ الإرسال|تم الإرسال|التاريخ|إلى|الى|المرسل إليه|نسخة|نسخة إلى|الموضوع)"
)
_BOUNDARIES = re.compile(
    rf"""
      [-_=*]{{3,}} [ \t]* (?:{_FORWARDED}) [^\n]*                     # -----Original Message-----
    | ^ [ \t]* (?:{_FORWARDED}) [^\n]{{0,80}} : [ \t]* $              # Begin forwarded message:
    | ^ [ \t]* [_-]{{10,}} [ \t]* $                                   # the line that Outlook draws
    | (?: ^ [ \t*>]* {_LABEL} [ \t*]* : [^\n]* \n? ){{2,}}             # From: … / Sent: … / Subject: …
    | \b (?:from|من|المرسل) [ \t]* : [^\n]{{1,120}}?
      \b (?:sent|date|to|أرسلت|أرسل|التاريخ|تاريخ[ ]الإرسال|إلى|الى) [ \t]* : [^\n]{{1,120}}?
      \b (?:subject|الموضوع) [ \t]* :                                 # the same in one line
    | ^ [ \t]* on \b [^\n]{{1,200}} (?: \n [^\n]{{0,200}} )?? \b wrote [ \t]* :   # On 4 May 2024, A wrote:
    | ^ [ \t]* (?:في|بتاريخ|يوم) \b [^\n]{{1,200}} (?: \n [^\n]{{0,200}} )??
      \b كتبت? \b [^\n]{{0,120}} (?: \n [^\n]{{0,80}} )?? :
    | ^ [ \t]* (?:و|وقد[ ]|وكان[ ]قد[ ])? كتبت? \b [^\n]{{1,160}} : [ \t]* $
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)


def blocks_of(text: str) -> list[str]:
    """The text's own part and what it quotes, each a block; the text alone when it quotes nothing.

    A block ends where a mark of a quoted or forwarded letter stands. The lines of one depth of `>` are one block, also
    where an answer stands between them.
    """
    if not (":" in text or ">" in text or "---" in text or "___" in text):
        return [text]
    blocks: list[str] = []
    for piece in _BOUNDARIES.split(text):
        by_depth: dict[int, list[str]] = {}
        for line in piece.split("\n"):
            mark = _QUOTE_MARK.match(line)
            depth = mark.group(1).count(">") if mark else 0
            by_depth.setdefault(depth, []).append(line[mark.end() :] if mark else line)
        blocks += ["\n".join(lines) for lines in by_depth.values()]
    return [block for block in blocks if block.strip()]
