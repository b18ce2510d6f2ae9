"""Invented documents that go through every batch and must come out scrubbed; they prove that the detectors ran."""

from dataclasses import dataclass

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.errors import PrivacyError
from sovereign_pipeline.privacy.recognizers import KEPT_BY_DEFAULT, KINDS

CANARY_CASE = "canary"


@dataclass(frozen=True)
class Canary:
    """document: goes through the detectors. planted: what must not be in it afterwards; one of every kind."""

    document: Document
    planted: tuple[str, ...]

    @property
    def language(self) -> str:
        return self.document.language

    def check(self, scrubbed: Document) -> None:
        """Raise PrivacyError unless every planted value is gone and a placeholder of every kind is there."""
        text = "\n".join((*scrubbed.texts.values(), scrubbed.author))
        missed = sum(value in text for value in self.planted)
        absent = [kind for kind in KINDS if kind not in KEPT_BY_DEFAULT and f"{kind}_1" not in text]
        if missed or absent:
            raise PrivacyError(
                f"The {self.language} canary came out with {missed} planted values left and no placeholder for "
                f"{len(absent)} kinds ({', '.join(absent) or 'none'}): this batch is not to be trusted. Nothing was "
                f"written. Reinstall the detectors, or undo the change to recipe.privacy that hides the canary."
            )


def _canary(language: str, author: str, request: str, response: str, planted: tuple[str, ...]) -> Canary:
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
        "4521 AB. My driving licence is 70123456, my SSN 219-09-9999, and I wrote from 192.0.2.44.",
        "Margaret Thompson has been told. Mr Al-Araimi has not.",
        (
            "Hamood",
            "Araimi",
            "Kindi",
            "10457832",
            "71440982",
            "AB1234567",
            "4 May 1983",
            "3021",
            "218",
            "9234",
            "hamood@",
            "0123456789012",
            "OM82",
            "4111",
            "1234567",
            "4521",
            "70123456",
            "219-09",
            "192.0.2",
        ),
    ),
    _canary(
        "ar",
        "زاهر بن علي الكندي",
        "أنا سعيد بن راشد العريمي، الرقم المدني ١٠٤٥٧٨٣٢، وكانت لي بطاقة مقيم رقم ٧١٤٤٠٩٨٢، جواز السفر رقم AB1234567، "
        "من مواليد ٤ مايو ١٩٨٣، وأسكن المنزل ١٤، السكة ٣٠٢١، الخوير، ص.ب ٢١٨، الرمز البريدي ١٣٣. هاتفي ٩٢٣٤١١٨٧ وبريدي "
        "said@canary.example. دفعت من الحساب رقم ٠١٢٣٤٥٦٧٨٩٠١٢ إلى الآيبان OM820270310045566770012 ومرة بالبطاقة "
        "٤١١١ ١١١١ ١١١١ ١١١١. السجل التجاري رقم ١٢٣٤٥٦٧، والمركبة رقم ٤٥٢١ أ ب. "
        "رخصة القيادة رقم 70123456، ولي رقم SSN 219-09-9999، وكتبت من 192.0.2.44.",
        "أُبلغ السيد العريمي بذلك.",
        (
            "سعيد",
            "العريمي",
            "الكندي",
            "١٠٤٥٧٨٣٢",
            "٧١٤٤٠٩٨٢",
            "AB1234567",
            "٤ مايو",
            "٣٠٢١",
            "٢١٨",
            "٩٢٣٤١١٨٧",
            "said@",
            "٠١٢٣٤٥٦٧٨٩٠١٢",
            "OM82",
            "٤١١١",
            "١٢٣٤٥٦٧",
            "٤٥٢١",
            "70123456",
            "219-09",
            "192.0.2",
        ),
    ),
)
