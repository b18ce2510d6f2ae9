"""Parts of patterns that several identifiers share.

What belongs here: pieces of regular expressions over normalised text. What does not: whole patterns (`labels.py`,
`shapes.py`, `long_numbers.py`).
"""

DIGITS_OF_A_NATIONAL_ID = 8
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
HIJRI_MONTH = (
    r"(?:Muharram|Safar|Rabi['’]? ?(?:al-?|ul-? ?)?(?:-?(?:Awwal|Thani|Akh[ai]r|II?))|Juma?da(?: |"
    r"-)(?:al-? ?|ul-? ?)?(?:Awwal|Ula|Ul[aā]|Thani|Akh[ai]ra?h?|II?)|"
    r"Rajab|Sha['’]?ban|Ramad[ah]+n|Shawwal|Dh[ui](?:'?l| ?al)?[ -]?(?:al-)?(?:Qi?['’]?d[ae]h?|Hijj?ah?)|"
    r"محرم|صفر|ربيع (?:ال)?(?:أول|اول|آخر|اخر|ثاني)|جماد[ىيا] (?:ال)?(?:أولى|اولى|آخرة|اخرة|ثانية)|رجب|شعبان|رمضان|"
    r"شوال|ذ[ويا] (?:ال)?(?:قعدة|حجة))"
)
HIJRI_DATE = (
    rf"(?:\d{{1,2}}(?:st|nd|rd|th)?[ -](?:of |من |شهر )?{HIJRI_MONTH},?[ -](?:سنة |عام )?1[34]\d\d"
    rf"|{HIJRI_MONTH}(?: \d{{1,2}})?,? (?:سنة |عام )?1[34]\d\d)"
)
# What may stand between a label and its value: "no.", "number is", ":", "of my son is", "رقم", "هو", "رقمها".
LINK_EN = (
    r"(?:\s*(?:\([A-Za-z.]{1,8}\)|[:#=(]|\b(?:no|nr|num|number|is|was|are|card)\b\.?|"
    r"\bof\b[^\d.;\n]{0,30}?\b(?:is|was)\b))*\s*"
)
LINK_AR = r"(?:\s*(?:[:#=(]|رقم(?:ه|ها|ي|نا)?|ذات الرقم|ذو الرقم|الرقم|هو|هي|وهو|وهي|كان))*\s*"
EXTENSION = r"(?: ?(?:x|ext\.? ?)\d{1,5})?"
PHONE_VALUE = r"(?:\(?(?:\+|00) ?\d{1,3}\)?[ .-]?(?:\(0\) ?)?)?(?:\(\d{1,5}\)[ .-]?\d|\d)(?:[ .-]?\d){4,11}" + EXTENSION
_UNITS = (
    r"kgs?|kilos?|kilogram\w*|tonn?es?|tons?|lbs|dwt|grt|grams?|b?hp|horsepower|kw|mw|kwh|mwh|cc|mm|cm|km|m[23²³]|"
    r"met(?:re|er)s?|feet|ft|inch(?:es)?|lit(?:re|er)s?|gallons?|barrels?|bbls?|teus?|miles|knots|[kmg]?hz|"
    r"(?:kilo|mega|giga)?hertz|volts?|kv|amps?|watts?|bars?|degrees?|rials?|riyals?|dirhams?|dollars?|euros?|pounds?|"
    r"omr|aed|usd|baisa|per ?cent|bytes|[kmg]b|كجم|كغم?|كيلو\w*|طن\w*|كم|متر\w*|أمتار|لتر\w*|برميل\w*|حصان\w*|"
    r"ريال\w*|درهم\w*|دينار\w*|دولار\w*|هرتز|مي[جغ]اهرتز"
)
UNIT = rf"(?:[%°]|[$€£](?!\s?\d)|(?i:{_UNITS})(?!\w))"
"""What a quantity has behind it."""
_COUNTED = (
    r"passengers?|persons?|people|crew|hours?|hrs?|days?|weeks?|months?|years?|points?|pages?|copies|units|pieces|items|"
    r"cases|shares|راكب\w*|ركاب|شخص\w*|ساعة|ساعات|يوم\w*|شهر\w*|سنة|سنوات|قطعة|نسخة"
)
NOT_A_QUANTITY = rf"(?!\s?(?:{UNIT}|(?i:{_COUNTED})(?!\w)))"
"""Behind a number of few digits: that it counts or measures nothing."""
