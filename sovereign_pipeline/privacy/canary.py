"""Invented documents that go through every batch and must come out scrubbed; they prove that the detectors ran.

What belongs here: one document for each language, with a planted value of every kind that is replaced by default.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS, Kind

CANARY_CASE = "canary"


@dataclass(frozen=True)
class Canary:
    """One invented document."""

    document: Document
    planted: tuple[tuple[Kind, str], ...]
    """What must not be in it once it was scrubbed, with what it is."""

    @property
    def language(self) -> str:
        return self.document.language

    def check(self, scrubbed: Document, kept: Collection[Kind] = ()) -> None:
        """Raise PrivacyError unless every planted value is gone and a placeholder of every kind is there.

        Args:
            kept: the kinds that the policy leaves in the text. These and `KEPT_BY_DEFAULT` are not checked.
        """
        text = "\n".join((*scrubbed.texts.values(), scrubbed.author))
        missed = sum(kind not in kept and value in text for kind, value in self.planted)
        absent = [
            kind for kind in KINDS if kind not in KEPT_BY_DEFAULT and kind not in kept and f"{kind}_1" not in text
        ]
        if missed or absent:
            raise PrivacyError(
                f"The {self.language} canary came out with {missed} planted values left and no placeholder for "
                f"{len(absent)} kinds ({', '.join(absent) or 'none'}). Nothing was written.",
                "Reinstall the detectors, or undo the change to recipe.privacy that hides the canary.",
            )


def _canary(language: str, author: str, request: str, response: str, planted: tuple[tuple[Kind, str], ...]) -> Canary:
    document = Document(
        id=f"{CANARY_CASE}-{language}",
        source=CANARY_CASE,
        case=f"{CANARY_CASE}-{language}",
        department=CANARY_CASE,
        author=author,
        date="2000-01-01",
        classification=CANARY_CASE,
        language=language,
        subject="",
        request=request,
        response=response,
    )
    return Canary(document, planted)


# The IBANs and the card number are valid by their check digits and belong to nobody.
CANARIES = (
    _canary(
        "en",
        "Zahir Al Kindi",
        "My name is Hamood bin Rashid Al Araimi, civil number 10457832, resident card 71440982 before that, passport "
        "AB1234567, born on 4 May 1983. I live at House 14, Way 3021, Al Khuwair, P.O. Box 218, Postal Code 133. Call "
        "+968 9234 1187 or write to hamood@canary.example. The fee went from account 0123456789012 to IBAN "
        "OM820270310045566770012 and once from card 4111 1111 1111 1111. My firm is CR 1234567, my car has plate "
        "4521 AB. My driving licence is 70123456, my SSN 219-09-9999, and I wrote from 192.0.2.44. "
        "The password is Lantern-7719x, and my boat lies at 23.62345, 58.59321.",
        "Margaret Thompson has been told. Mr Al-Araimi has not.",
        (
            ("NAME", "Hamood"),
            ("NAME", "Araimi"),
            ("NAME", "Kindi"),
            ("NID", "10457832"),
            ("RESIDENT_CARD", "71440982"),
            ("PASSPORT", "AB1234567"),
            ("DATE_OF_BIRTH", "4 May 1983"),
            ("ADDRESS", "3021"),
            ("PO_BOX", "218"),
            ("PHONE", "9234"),
            ("EMAIL", "hamood@"),
            ("ACCOUNT", "0123456789012"),
            ("IBAN", "OM82"),
            ("CARD", "4111"),
            ("CR", "1234567"),
            ("PLATE", "4521"),
            ("DRIVING_LICENCE", "70123456"),
            ("SSN", "219-09"),
            ("IP", "192.0.2"),
            ("CREDENTIAL", "7719"),
            ("COORDINATES", "23.62"),
        ),
    ),
    _canary(
        "ar",
        "زاهر بن علي الكندي",
        "أنا سعيد بن راشد العريمي، الرقم المدني ١٠٤٥٧٨٣٢، وكانت لي بطاقة مقيم رقم ٧١٤٤٠٩٨٢، جواز السفر رقم AB1234567، "
        "من مواليد ٤ مايو ١٩٨٣، وأسكن المنزل ١٤، السكة ٣٠٢١، الخوير، ص.ب ٢١٨، الرمز البريدي ١٣٣. هاتفي ٩٢٣٤١١٨٧ وبريدي "
        "said@canary.example. دفعت من الحساب رقم ٠١٢٣٤٥٦٧٨٩٠١٢ إلى الآيبان OM820270310045566770012 ومرة بالبطاقة "
        "٤١١١ ١١١١ ١١١١ ١١١١. السجل التجاري رقم ١٢٣٤٥٦٧، والمركبة رقم ٤٥٢١ أ ب. "
        "رخصة القيادة رقم 70123456، ولي رقم SSN 219-09-9999، وكتبت من 192.0.2.44. "
        "كلمة المرور: Lantern-7719x، وقاربي عند 23.62345, 58.59321.",
        "أُبلغ السيد العريمي بذلك.",
        (
            ("NAME", "سعيد"),
            ("NAME", "العريمي"),
            ("NAME", "الكندي"),
            ("NID", "١٠٤٥٧٨٣٢"),
            ("RESIDENT_CARD", "٧١٤٤٠٩٨٢"),
            ("PASSPORT", "AB1234567"),
            ("DATE_OF_BIRTH", "٤ مايو"),
            ("ADDRESS", "٣٠٢١"),
            ("PO_BOX", "٢١٨"),
            ("PHONE", "٩٢٣٤١١٨٧"),
            ("EMAIL", "said@"),
            ("ACCOUNT", "٠١٢٣٤٥٦٧٨٩٠١٢"),
            ("IBAN", "OM82"),
            ("CARD", "٤١١١"),
            ("CR", "١٢٣٤٥٦٧"),
            ("PLATE", "٤٥٢١"),
            ("DRIVING_LICENCE", "70123456"),
            ("SSN", "219-09"),
            ("IP", "192.0.2"),
            ("CREDENTIAL", "7719"),
            ("COORDINATES", "23.62"),
        ),
    ),
)
