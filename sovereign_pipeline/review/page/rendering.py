"""Render the review's pages in English and Arabic, including its error pages."""

import logging
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException

from sovereign_pipeline.base.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    SignInError,
    SovereignError,
    place_of,
)
from sovereign_pipeline.split.similarity import PLACEHOLDER

Language = Literal["en", "ar"]
Direction = Literal["ltr", "rtl"]

ARABIC = {
    "Blind comparison": "مقارنة عمياء",
    "Message": "الرسالة",
    "Answer A": "الجواب أ",
    "Answer B": "الجواب ب",
    "A": "أ",
    "B": "ب",
    "Tie": "متعادلان",
    "accuracy": "الدقة",
    "helpfulness": "الفائدة",
    "tone": "النبرة",
    "What it says is right and nothing is made up.": "ما يقوله صحيح وليس فيه شيء مختلق.",
    "Whoever wrote the message can act on it.": "يستطيع كاتب الرسالة أن يعمل به.",
    "It sounds as we would write.": "يبدو كما نكتب نحن.",
    "Rate each answer from 1 (poor) to 5 (very good)": "قيّم كل جواب من ١ (ضعيف) إلى ٥ (جيد جداً)",
    "Which answer would you rather send?": "أي الجوابين تفضل أن ترسله؟",
    "Record and go on": "سجّل وتابع",
    "left": "متبقية",
    "of": "من",
    "Keys": "لوحة المفاتيح",
    "rate the marked row": "تقييم السطر المحدد",
    "another row": "سطر آخر",
    "the better answer, or a tie": "الجواب الأفضل، أو التعادل",
    "record": "تسجيل",
    "the newer version's answer": "جواب النسخة الأحدث",
    "A ballot is final. You may stop at any time; the page goes on where you stopped.": (
        "التقييم نهائي. يمكنك التوقف متى شئت، وتعود الصفحة إلى حيث توقفت."
    ),
    "(no answer)": "(لا جواب)",
    "One more question": "سؤال أخير",
    "One of the two answers is from a newer version. Which one do you think it is?": (
        "أحد الجوابين من نسخة أحدث. أي الجوابين تظن أنه منها؟"
    ),
    "If you cannot tell, guess: that is an answer too. What you rated stays as it is.": (
        "إن لم تعرف فخمّن، فهذا جواب أيضاً. وما قيّمته يبقى كما هو."
    ),
    "The newer version's answer is": "جواب النسخة الأحدث هو",
    "Choose one of the two; if you cannot tell, guess.": "اختر أحد الجوابين؛ وإن لم تعرف فخمّن.",
    "Thank you": "شكراً لك",
    "All your pairs are rated. You can close this page.": "قيّمت كل ما لديك. يمكنك إغلاق هذه الصفحة.",
    "This review is closed; no rating is taken any more. Thank you for yours.": (
        "أُغلقت هذه المقارنة ولا تُقبل تقييمات بعد الآن. شكراً على تقييماتك."
    ),
    "Sign in": "الدخول",
    "This link signs you in once, on this device. What you rate is recorded under your name.": (
        "يُدخلك هذا الرابط مرة واحدة على هذا الجهاز. ويُسجل تقييمك باسمك."
    ),
    "Begin": "ابدأ",
    "Not signed in": "لم تدخل بعد",
    "You are not signed in here. Open the link that you were sent.": "لم تدخل هنا بعد. افتح الرابط الذي أُرسل إليك.",
    "You were signed in too long ago. Ask for a new link; no rating is lost.": (
        "انتهت مدة دخولك. اطلب رابطاً جديداً؛ لم يضع أي تقييم."
    ),
    "This link is not one of ours. Copy it whole, or ask whoever sent it for a new one.": (
        "هذا الرابط ليس من روابطنا. انسخه كاملاً أو اطلب رابطاً جديداً ممن أرسله."
    ),
    "This link was used already. Ask whoever sent it for a new one; no rating is lost.": (
        "استُعمل هذا الرابط من قبل. اطلب رابطاً جديداً ممن أرسله؛ لم يضع أي تقييم."
    ),
    "There is a newer link for you. Open that one; no rating is lost.": ("هناك رابط أحدث لك. افتحه؛ لم يضع أي تقييم."),
    "A newer link has ended this session. Open that link; no rating is lost.": (
        "أنهى رابط أحدث هذه الجلسة. افتح ذلك الرابط؛ لم يضع أي تقييم."
    ),
    "This link is too old. Ask whoever sent it for a new one; no rating is lost.": (
        "هذا الرابط قديم. اطلب رابطاً جديداً ممن أرسله؛ لم يضع أي تقييم."
    ),
    "You take part in no open review. Ask whoever invited you.": "لا تشارك في أي مقارنة مفتوحة. اسأل من دعاك.",
    "Not sent: there is no connection. Your ratings are kept on this page. Try again.": (
        "لم يُرسل: لا يوجد اتصال. تقييمك محفوظ في هذه الصفحة. حاول مرة أخرى."
    ),
    "Rate both answers and say which is better; the marked row is missing.": (
        "قيّم الجوابين وقل أيهما أفضل؛ السطر المحدد ناقص."
    ),
    "Something is wrong": "حدث خطأ",
    "There is no such page here.": "لا توجد هذه الصفحة هنا.",
    "This pair is not one of yours.": "هذا الزوج ليس من أزواجك.",
    "This pair was rated already. The first rating stands.": "قُيّم هذا الزوج من قبل. يبقى التقييم الأول.",
    "This request did not come from the page. Load the page again.": "لم يأت هذا الطلب من الصفحة. أعد تحميلها.",
    "The rating is not complete. Load the page again.": "التقييم غير مكتمل. أعد تحميل الصفحة.",
    "The page cannot be served now. Tell the administrator; no rating is lost.": (
        "لا يمكن عرض الصفحة الآن. أخبر المسؤول؛ لم يضع أي تقييم."
    ),
    "This page needs JavaScript.": "تحتاج هذه الصفحة إلى جافاسكربت.",
}

CRITERION_MEANINGS = {
    "accuracy": "What it says is right and nothing is made up.",
    "helpfulness": "Whoever wrote the message can act on it.",
    "tone": "It sounds as we would write.",
}


def translate(sentence: str, language: Language) -> str:
    """Translate a sentence. A sentence without a translation stays English."""
    return ARABIC.get(sentence, sentence) if language == "ar" else sentence


def direction(text: str) -> Direction:
    """Return the direction of most characters (Unicode's bidirectional classes).

    Placeholders such as NAME_1 are ignored.

    Browsers' `auto` uses the first strong character, which would set an Arabic answer that begins with a Latin name
    from left to right.
    """
    classes = [unicodedata.bidirectional(character) for character in PLACEHOLDER.sub(" ", text)]
    right_to_left = sum(each in ("R", "AL") for each in classes)
    return "rtl" if right_to_left > classes.count("L") else "ltr"


HERE = Path(__file__).resolve().parent
LANGUAGE_COOKIE = "language"

_TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def render(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """Render a template as a page. The template translates its sentences with `say`."""
    language = language_of(request)

    def say(sentence: str) -> str:
        return translate(sentence, language)

    content = _TEMPLATES.get_template(template).render(
        say=say, language=language, direction="rtl" if language == "ar" else "ltr", direction_of=direction, **values
    )
    return Response(content, status, media_type="text/html")


def language_of(request: Request) -> Language:
    """Return the language chosen on the page, or else the browser's first preference for English or Arabic."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    if chosen is None:
        accepted = [part.strip()[:2].lower() for part in request.headers.get("accept-language", "").split(",")]
        chosen = next((each for each in accepted if each in ("en", "ar")), "en")
    return "ar" if chosen == "ar" else "en"


_LOG = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action "
        "'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

REFUSALS: Sequence[tuple[type[SovereignError], int, str]] = (
    (SignInError, 401, "Not signed in"),
    (NotFoundError, 404, "Something is wrong"),
    (ConflictError, 409, "Thank you"),
    (InputError, 400, "Something is wrong"),
)
"""Error class, HTTP status and page title. The first class that matches applies."""


def add_handlers(app: FastAPI) -> None:
    """Turn every expected error of a route into a sentence for the operator."""
    for kind, _, _ in REFUSALS:
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _unknown)


async def protect(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Set the security headers, and hide the details of unexpected errors from browsers."""
    try:
        response = await call_next(request)
    except Exception as error:
        # Our own messages go to the server's log; the message of a bug does not, since it may quote an answer.
        _LOG.error(str(error) if isinstance(error, SovereignError) else place_of(error))
        text = "The page cannot be served now. Tell the administrator; no rating is lost."
        response = _refuse(request, 500, "Something is wrong", text)
    response.headers.update(HEADERS)
    return response


def _refused(request: Request, error: Exception) -> Response:
    status, title = next((status, title) for kind, status, title in REFUSALS if isinstance(error, kind))
    text = f"{error.message} {error.hint}".strip() if isinstance(error, SovereignError) else str(error)
    return _refuse(request, status, title, text)


def _invalid(request: Request, error: Exception) -> Response:
    return _refuse(request, 400, "Something is wrong", "The rating is not complete. Load the page again.")


def _unknown(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return _refuse(request, status, "Something is wrong", "There is no such page here.")


def _refuse(request: Request, status: int, title: str, text: str) -> Response:
    """Return a page if the browser opened one, and only the sentence for requests by the page's scripts."""
    if request.method == "GET":
        return render(request, "message.html", status, title=title, text=text)
    return JSONResponse({"error": translate(text, language_of(request))}, status)
