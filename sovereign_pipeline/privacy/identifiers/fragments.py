"""Parts of patterns that several identifiers share.

What belongs here: pieces of regular expressions over normalised text. What does not: whole patterns (`labels.py`,
`shapes.py`, `long_numbers.py`).
"""

NOT_IN_WORD = r"(?<![\w/])"
END = r"(?![\w/])(?![.,]\d)(?!-\d)"
NOT_AN_AMOUNT = r"(?<!\bOMR )(?<!\bOMR)(?<!\bRO )(?<!\d[.,:-])"
MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December|"
    r"Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|"
    r"يناير|فبراير|مارس|أبريل|ابريل|إبريل|مايو|يونيو|يوليو|أغسطس|اغسطس|سبتمبر|أكتوبر|اكتوبر|نوفمبر|ديسمبر)"
)
DATE = (
    rf"(?:\d{{1,2}}(?:st|nd|rd|th)?[ -](?:of )?{MONTH}[ ,-]*\d{{4}}|{MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}"
    r"|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2}))"
)
EXTENSION = r"(?: ?(?:x|ext\.? ?)\d{1,5})?"
PHONE_VALUE = r"(?:\(?(?:\+|00) ?\d{1,3}\)?[ .-]?(?:\(0\) ?)?)?(?:\(\d{1,5}\)[ .-]?\d|\d)(?:[ .-]?\d){4,11}" + EXTENSION
