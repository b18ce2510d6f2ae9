"""Measure which words OCR keeps of scanned letters, and how sure tesseract is of them.

    .venv/bin/python -m benchmarks.corpus.ocr_quality [--font FILE ...]

The letters are invented. Each is printed in each font, spoiled in each way of `scans.CONDITIONS`, and read as a source
reads it, but outside the sandbox and without a least confidence. Words count in their order.
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from difflib import SequenceMatcher
from pathlib import Path
from statistics import mean

from sovereign_pipeline.corpus import ocr
from sovereign_pipeline.corpus.parsing import Unreadable
from sovereign_pipeline_tests.corpus import scans

LETTERS = {
    "English": (
        """Harbour Office
Ref: LMP/2024/17
Date: 12 March 2024
Subject: Lamp of the second street

Dear Sir or Madam,
The lamp of the second street has been out since Monday evening. Several
neighbours have complained, and two children fell on the steps last night.
Please mend it soon, and tell us on which day your workers will come.
With many thanks and kind regards,
The residents of the second street""",
        """Permit Office, Harbour Road 7
Our ref: PRM-2024-00317
15 May 2024

Dear Mr Baker,
Your application for a building permit was received on 2 May 2024. The plans
are complete, but the signature of the engineer on sheet 3 is missing. Kindly
send us a signed copy within fourteen days, so that the council can decide in
its meeting of 12 June. The fee of 125.50 is due when the permit is issued.
Yours sincerely,
for the Permit Office""",
    ),
    "Arabic": (
        """الرقم: م/2024/17
الموضوع: المصباح القديم في المنطقة الثانية

السلام عليكم ورحمة الله وبركاته،
نرجو منكم إصلاح المصباح القديم في المنطقة الثانية، فقد انطفأ منذ مساء الاثنين
واشتكى عدد من الجيران، وسقط طفلان على الدرج ليلة أمس بسبب الظلام.
نأمل أن تخبرونا باليوم الذي سيحضر فيه العمال إلى الشارع.
وتفضلوا بقبول فائق الاحترام والتقدير،
سكان الشارع الثاني""",
        """الرقم: ص/٢٠٢٤/٣٣
الموضوع: رخصة البناء

إلى السيد مدير البلدية المحترم،
نود إعلامكم بأن طلب رخصة البناء رقم ٤٥٦ قد استكمل جميع المستندات المطلوبة،
وقد تم تحويله إلى القسم الهندسي لإبداء الرأي الفني خلال أسبوعين من تاريخه.
وعليه يرجى مراجعة المكتب يوم الأحد القادم لاستلام النسخة الموقعة من المخطط.
شاكرين لكم حسن تعاونكم معنا""",
    ),
    "both": (
        """الرقم: م/2024/18
الموضوع: عرض شركة Northern Lamps Ltd

السلام عليكم ورحمة الله وبركاته،
تلقينا عرض الشركة Northern Lamps Ltd بخصوص الطراز LED-400 في الشارع الثاني.
يرجى إرسال الفاتورة إلى العنوان desk@harbour.example قبل نهاية الشهر القادم.

Dear colleagues,
please send the invoice for the lamps of the second street before the end of the month.
With kind regards, the harbour office""",
    ),
}


def read(content: bytes) -> ocr.ReadPage:
    try:
        return ocr.read_pages(content, [1])[1]
    except Unreadable:
        return ocr.ReadPage([], 0, 0.0)


def kept(found: ocr.ReadPage, letter: str) -> float:
    words = scans.words([letter])
    matches = SequenceMatcher(None, words, scans.words(found.lines), autojunk=False).get_matching_blocks()
    return sum(match.size for match in matches) / len(words)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--font", type=Path, action="append", default=[], help="further font with Latin and Arabic")
    fonts = [scans.FONT, *parser.parse_args().font]
    least, least_share = ocr.LEAST_CONFIDENCE, ocr.LEAST_SHARE
    ocr.LEAST_CONFIDENCE = ocr.LEAST_SHARE = 0.0
    measured = defaultdict[tuple[str, str], list[tuple[float, float, float]]](list)
    with tempfile.TemporaryDirectory() as directory:
        ocr._AT = directory
        for at, file in ocr.find_tesseract().mounted.items():
            Path(directory, Path(at).name).symlink_to(file)
        for condition, spoiled in scans.CONDITIONS.items():
            for language, letters in LETTERS.items():
                for letter in letters:
                    pages = [read(spoiled(letter, font)) for font in fonts]
                    measured[condition, language] += [
                        (kept(page, letter), page.confidence, page.share) for page in pages
                    ]
    lines = [
        f"| scan | {' | '.join(f'{each}: words kept, confidence' for each in LETTERS)} | in words | accepted |",
        f"|{'---|' * (len(LETTERS) + 3)}",
    ]
    for condition in scans.CONDITIONS:
        of_language = [measured[condition, language] for language in LETTERS]
        cells = [f"{mean(each[0] for each in some):.2f}, {mean(each[1] for each in some):.0f}" for some in of_language]
        pages = [page for each in of_language for page in each]
        accepted = sum(sure >= least and share >= least_share for _, sure, share in pages)
        lowest = min(share for _, _, share in pages)
        lines.append(f"| {condition} | {' | '.join(cells)} | {lowest:.2f} or more | {accepted} of {len(pages)} |")
    pages = [page for each in measured.values() for page in each]
    lines += ["", "| least confidence | pages at or above: least, mean of words kept | below: most |", "|---|---|---|"]
    for limit in range(60, 95, 5):
        above = [of_page for of_page, sure, share in pages if sure >= limit and share >= least_share]
        below = [of_page for of_page, sure, share in pages if sure < limit or share < least_share]
        lines.append(
            f"| {limit} | {len(above)}: {min(above):.2f}, {mean(above):.2f} | {len(below)}: {max(below):.2f} |"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
