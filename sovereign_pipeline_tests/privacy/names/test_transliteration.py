"""Parts of names across scripts and spellings: what is a common spelling, what could be one, what is another name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.privacy.names.lexicon import ARABIC, LATIN
from sovereign_pipeline.privacy.names.persons import folded_word
from sovereign_pipeline.privacy.names.transliteration import Likeness, is_arabic, likeness, skeleton
from sovereign_pipeline_tests.examples import examples

# Given names and tribal names as they are written in the Gulf; every Latin spelling is a common one of the Arabic.
SAME = """
سعيد said saeed sa'id | سعود saud saoud | سعد saad sa'd | سعاد suad souad | سالم salim salem | سليم saleem salim
سليمان sulaiman suleiman | سلمى salma | محمد mohammed mohamed muhammad | محمود mahmood mahmoud | أحمد ahmed ahmad
حمد hamad hamed | حامد hamed hamid | حميد humaid hamid | حمود hamood hamoud | حمدان hamdan | ناصر nasser nasir
نصر nasr | راشد rashid rashed | رشيد rasheed rashid | رشاد rashad | خالد khalid khaled | خلفان khalfan | خميس khamis
خليفة khalifa | علي ali | عمر omar umar | عمار ammar | عامر amer amir | عثمان othman uthman | عيسى issa eisa isa
موسى musa moosa | يحيى yahya | يوسف yousuf yusuf youssef | يعقوب yaqoob yaqoub | داود dawood daoud
إبراهيم ibrahim ebrahim | إسماعيل ismail | إدريس idris | إسحاق ishaq | أيمن ayman | أيوب ayoub | إيمان iman eman
فاطمة fatma fatima fatimah | فاطمه fatma | عائشة aisha ayesha | خديجة khadija | مريم maryam mariam | زينب zainab zaynab
ليلى laila layla leila | هدى huda | منى muna mona | شيخة sheikha shaikha | موزة moza | جوخة jokha | بدرية badriya badria
ثريا thuraya | زكريا zakariya | أسماء asma asmaa | رقية ruqaya | سمية sumaya | عزة azza | طالب talib taleb | طلال talal
طارق tariq tareq | قاسم qasim kasim | قيس qais | فيصل faisal faysal | هيثم haitham | مازن mazin | مبارك mubarak
مسلم musallam muslim | مصطفى mustafa | معاذ muadh | نوال nawal | وليد waleed walid | وضحى wadha | وفاء wafaa wafa
هلال hilal | ياسر yasir yasser | زاهر zahir zaher | زهير zuhair | زايد zayed | زيد zaid zayd | زياد ziyad
صالح saleh salih | صلاح salah | كامل kamil kamel | كمال kamal | جمال jamal | جميل jamil | حسن hassan hasan
حسين hussain hussein | بدر badr bader | فهد fahad | سيف saif | سلطان sultan | عبيد obaid | طه taha | أسامة usama osama
عبدالله abdullah abdulla | عبدالرحمن abdulrahman | عبدالعزيز abdulaziz | عبدالسلام abdulsalam | عبدالملك abdulmalik
البوسعيدي al-busaidi al-busaeedi | الحارثي al-harthi al-harthy | الحراصي al-harrasi | الكندي al-kindi al-kindy
الكندية al-kindi al-kindiya al-kindiyah | البلوشي al-balushi | العريمي al-araimi | الحبسي al-habsi | الشحي al-shihhi
السيابي al-siyabi | الريامي al-riyami | الزدجالي al-zadjali | الغيلاني al-ghailani al-gheilani | الرواحي al-rawahi
العبري al-abri | الهنائي al-hinai | المعمري al-maamari al-mamari | المعولي al-mawali | اليحمدي al-yahmadi
اليعقوبي al-yaqoubi | المحروقي al-mahrouqi al-mahrooqi | المقبالي al-maqbali | المزروعي al-mazrui | الرئيسي al-raisi
العيسائي al-issai | الحضرمي al-hadhrami al-hadrami | الظاهري al-dhahri | الوهيبي al-wahaibi | الخروصي al-kharusi
القاسمي al-qasmi | الكيومي al-kiyumi | الشعيلي al-shuaili | العبيداني al-ubaidani | الهوتي al-hooti | التوبي al-tobi
اللواتي al-lawati | الجهضمي al-jahdhami | البطاشي al-battashi | العامري al-amri | الفارسي al-farsi
"""
# Names that are easily confused, and are others.
OTHER = """
سعيد saud saad | سعود said saad | سعد saud said | سعاد saud saad | سالم saleem sulaiman salma | سليم salma salam
سلمى salim | محمد mahmood hamad | محمود mohammed | أحمد hamad | حمد ahmed hamood | حمود hamad | حميد hamad hamood
رشيد rashad | خالد khulood khalil | خليل khalid | علي alia | عمر amer ammar | عامر omar | عمار omar | حسن hussain
حسين hassan hasan | كمال kamil | جمال jamil | جميل jamal | صلاح saleh | ناصر nasra | نصر naseer | زياد zaid
زاهر zuhair | زهير zahra | قاسم qais | سيف yousuf | طالب talal | طلال talib | منى amina | آمنة muna | ماجد majeed
مجيد majda | بدر badriya | عبدالله abdulaziz | عبدالرحمن abdulrahim | عبدالعزيز abdullah | أسماء usama | إيمان ayman
الحراصي al-harthi | البوسعيدي al-saidi | السعيدي al-busaidi al-saadi al-said | السعدي al-saidi | الكندي al-kalbani
المعمري al-amri | العامري al-maamari | الهنائي al-hooti | الحبسي al-habshi | الشحي al-shibli | الرواحي al-rahbi
الريامي al-rumhi | البلوشي al-balawi | سعيد al-saidi | الفارسي al-faraji
"""


def pairs(table: str) -> list[tuple[str, str]]:
    rows = [row.split() for row in table.replace("\n", " | ").split("|") if row.split()]
    return [(folded_word(arabic), latin) for arabic, *spellings in rows for latin in spellings]


@pytest.mark.parametrize(("arabic", "latin"), pairs(SAME))
def test_a_common_spelling_is_certain(arabic: str, latin: str) -> None:
    assert likeness(arabic, latin) is likeness(latin, arabic) is Likeness.CERTAIN


@pytest.mark.parametrize(("arabic", "latin"), pairs(OTHER))
def test_another_name_is_none(arabic: str, latin: str) -> None:
    assert likeness(arabic, latin) is likeness(latin, arabic) is Likeness.NONE


@pytest.mark.parametrize(
    ("arabic", "latin"),
    [("عثمان", "osman"), ("زيد", "zayed"), ("حامد", "hamad"), ("الكندي", "kindi"), ("جمال", "gamal"), ("على", "ali")],
)
def test_a_rare_spelling_is_possible_and_no_more(arabic: str, latin: str) -> None:
    assert likeness(arabic, latin) is Likeness.POSSIBLE


@pytest.mark.parametrize(("one", "other"), examples(__file__, "two_spellings_of_one_script_are_possible"))
def test_two_spellings_of_one_script_are_possible(one: str, other: str) -> None:
    assert likeness(one, other) is likeness(other, one) is Likeness.POSSIBLE
    assert skeleton(one) == skeleton(other)


@pytest.mark.parametrize(("one", "other"), examples(__file__, "two_names_of_one_script_are_none"))
def test_two_names_of_one_script_are_none(one: str, other: str) -> None:
    assert likeness(one, other) is Likeness.NONE


def test_no_name_of_the_word_lists_is_taken_for_more_than_a_few_others() -> None:
    """Among all Gulf names of the lists, a certain match is unique but for names that Latin cannot tell apart."""
    arabic = {folded_word(name) for name in ARABIC["given_gulf"]}
    shared = {}
    for latin in LATIN["given"]:
        matches = {name for name in arabic if likeness(name, latin) is Likeness.CERTAIN}
        if len(matches) > 1:
            shared[latin] = matches
    assert shared == {
        "amina": {"امنه", "امينه"},
        "hamed": {"حامد", "حمد"},
        "hamid": {"حامد", "حميد"},
        "salim": {"سالم", "سليم"},
    }


PARTS = st.sampled_from([part for table in (SAME, OTHER) for pair in pairs(table) for part in pair])


@given(PARTS, PARTS)
def test_likeness_is_symmetric_and_certain_only_across_scripts(one: str, other: str) -> None:
    assert likeness(one, other) is likeness(other, one)
    if likeness(one, other) is Likeness.CERTAIN:
        assert is_arabic(one) != is_arabic(other)
    elif one != other and is_arabic(one) == is_arabic(other) and likeness(one, other):
        assert skeleton(one) == skeleton(other)


@given(st.text(max_size=12), st.text(alphabet="ابتثجحخدذرزسشصضطظعغفقكلمنهويىئؤء", max_size=10))
def test_any_text_is_judged(one: str, arabic: str) -> None:
    assert likeness(one, arabic) in Likeness
