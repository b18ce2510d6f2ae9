"""Payment cards of which some digits are masked.

What belongs here: their forms. What does not: whole card numbers (`shapes.py`, `labels.py`, `separated.py`).
"""

import re

from sovereign_pipeline.privacy.identifiers.fragments import NOT_A_QUANTITY

_MASK = r"[*•●×xX#]"
_LABEL = (
    r"(?:(?:credit|debit|bank|payment) card|\bcard(?: no\.?| number)?(?: is)?|\bvisa(?: card)?|master ?card|"
    r"\bamex|american express"
    r"|(?:ال)?بطاقة(?: (?:ال)?(?:ائتمان(?:ية)?|بنكية|مصرفية|خصم|فيزا))?)"
)
MASKED_BY_LABEL = re.compile(
    rf"(?i){_LABEL}(?:\s*(?:[:#(]|\b(?:no|number)\b\.?|رقم(?:ها)?))*\s*"
    rf"(?P<value>(?:\d[\d .-]{{0,7}})?(?:{_MASK}[ .-]{{0,2}}){{2,15}}\d{{3,4}})(?!\w)"
)
# Groups as they are printed on cards, with most of their digits masked: nothing else looks so.
MASKED = re.compile(
    rf"(?<![\w*•●×#])(?:\d{{4}}|{_MASK}{{4}})[ .-]{{0,2}}(?:\d\d{_MASK}{{2}}|"
    rf"{_MASK}{{4}})[ .-]{{0,2}}{_MASK}{{4}}[ .-]{{0,2}}\d{{4}}(?!\w)"
)
LAST_DIGITS = re.compile(
    r"(?i)(?:\bcards?(?: no\.?| number)?|\bvisa|master ?card|\bamex)(?: \w+)?,? (?:ending|ends|ended|"
    r"that ends|which ends)"
    r"(?: (?:in|with|on))? ?(?:the digits |number )?(?P<value>(?!(?:19|20)\d\d(?!\w))\d{3,4})(?!\w)(?![.,/-]\d)"
    rf"{NOT_A_QUANTITY}"
    r"|(?:ال)?بطاقة(?: \w+){0,2} (?:ال)?(?:منتهية|تنتهي) (?:ب|بالأرقام|برقم|بـ)? ?(?P<arabic>\d{3,4})(?!\w)"
)
SIGNS_OF_A_MASK = ("**", "••", "●●", "××", "xx", "##", "* *", "• •")
SIGNS_OF_LAST_DIGITS = (" ending", " ends", " ended", "منتهية", "تنتهي")
