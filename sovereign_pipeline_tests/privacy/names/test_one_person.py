"""One person in one case file, however the name is written: one placeholder, and nothing of the name is left.

Every name is invented. What belongs here: cases of one person, and of two who look alike. What does not: which names
may be joined in theory (`test_persons.py`).
"""

import re

import pytest

from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline_tests.privacy.conftest import document, scrub

# (author, letter, reply, words that must be gone)
ONE_PERSON = [
    ("Oakes, Tamsin", "My name is Tamsin Oakes.", "Dear Ms Oakes,", "tamsin oakes"),
    ("OAKES, Tamsin J.", "I am Tamsin Oakes of Quay 4.", "Dear Tamsin Oakes,", "tamsin oakes"),
    ("Tamsin Oakes", "Name: Oakes, Tamsin\nBerth: 4", "Ms. T. Oakes paid.", "tamsin oakes"),
    ("Tamsin J. Oakes", "Signed by Tamsin Oakes", "Dear Ms Oakes,", "tamsin oakes"),
    ("T. J. Oakes", "My name is Tamsin Jane Oakes.", "Mr T.J. Oakes is told.", "tamsin jane oakes"),
    ("Desmond Harper Jr.", "I am Desmond Harper Jr.", "Dear Mr Harper,", "desmond harper jr"),
    ("Harper, Desmond, KC", "This is Desmond Harper KC.", "Dear Mr Harper,", "desmond harper"),
    ("Desmond Harper, MBE", "Hi, I am Desmond.", "Dear Desmond Harper,", "desmond harper"),
    ("Dr Desmond Harper", "Dr. Harper called on Monday.", "Desmond Harper was told.", "desmond harper"),
    ("Harper", "Desmond Harper 92341187 is the master.", "Mr Harper has berth 4.", "desmond harper"),
    ("", "We met Desmond Harper 2 days ago.", "Mr Harper 14 March is too late.", "desmond harper"),
    ("", "Mr. Desmond Harper 92341187", "Mr Harper is on the list.", "desmond harper"),
    ("", "Crew: 1 Hamood Al Araimi 34; berth 9", "Mr Al Araimi may go.", "hamood araimi"),
    ("HAMOOD BIN RASHID AL ARAIMI", "I am Hamood Al Araimi.", "Dear Mr Al-Araimi,", "hamood rashid araimi"),
    ("", "Owner: HAMOOD BIN RASHID AL ARAIMI", "Hamood bin Rashid Al Araimi paid.", "hamood rashid araimi"),
    ("", "SAID AL BUSAIDI asks for a berth", "Mr Al Busaidi waits.", "said busaidi"),
    ("Said Al Busaidi", "said al busaidi wrote this", "Dear Mr Al-Busaidi,", "busaidi"),
    ("", "The letter of hamood al araimi came on Monday.", "Hamood Al Araimi is told.", "hamood araimi"),
    ("", "We saw margaret thompson at the Quay.", "Ms Thompson was there.", "margaret thompson"),
    ("", "my name is quillon abara and I moor at Sidab.", "Dear Quillon,", "quillon abara"),
    ("Margaret Thompson", "thanks, margaret", "Dear Margaret,", "margaret thompson"),
    ("José Ferreira", "Jose Ferreira asks.", "Dear Mr Ferreira,", "josé jose ferreira"),
    ("Zoë O’Brien", "I am Zoe O'Brien.", "Dear Zoë O'Brien,", "zoe zoë brien"),
    ("Ana-Maria Costa", "Ana-Maria Costa asks.", "Dear Ms Costa,", "maria costa"),
    ("Grant Oakes", "I am Grant Oakes. The grant is late.", "Dear Mr Oakes, Grant called.", "oakes"),
    ("Abdul Rahman Al Kindi", "I am Abdulrahman Al Kindi.", "Mr Al-Kindi paid.", "abdulrahman rahman kindi"),
    ("عبد الرحيم الحارثي", "طلب السيد عبد الرحيم الحارثي مرسى.", "السيد الحارثي", "عبد الرحيم الحارثي"),
    ("", "طلب السيد عبد الرحيم مرسى.", "أبلغ السيد عبد الرحيم بذلك.", "عبد الرحيم"),
    ("", "كتب السيد عبدالرحيم الحارثي إلينا.", "أبلغ عبد الرحيم الحارثي.", "عبدالرحيم الرحيم الحارثي"),
    ("ناصر بن سيف الحبسي", "أنا ناصر الحبسي.", "السيد الحبسي دفع.", "ناصر سيف الحبسي"),
    ("", "زارنا أبو بكر الحبسي أمس.", "قال السيد أبو بكر الحبسي إنه دفع.", "بكر الحبسي"),
    ("سالم بن أحمد بن علي المعمري", "طلب سالم المعمري ذلك.", "السيد سالم بن أحمد المعمري", "سالم أحمد المعمري"),
    ("Said Al Busaidi", "أكد السيد سعيد البوسعيدي طلبه.", "Mr Al-Busaidi paid.", "said busaidi سعيد البوسعيدي"),
    ("", "The Captain, Hanne Solberg, and later Solberg alone.", "Ms Solberg knows.", "hanne solberg"),
    ("Hanne Solberg", "Solberg, Hanne (owner)", "Dear H. Solberg,", "hanne solberg"),
    ("", "Eng. Kamil Al Abri signed.", "The engineer Kamil Al-Abri was told.", "kamil abri"),
    ("", "Rakesh Menon's berth is 4.", "Mr Menon’s berth is 4.", "rakesh menon"),
    ("Lt. Col. Rashid Al Siyabi", "I am Rashid As-Siyabi.", "Dear Mr Al Siyabi,", "rashid siyabi"),
    ("Ottokar B Brandl", "Ottokar B. Brandl asks.", "Dear Mr Brandl,", "ottokar brandl"),
    ("", "السيد پژمان گرامی دفع.", "أبلغ السيد پژمان گرامی بذلك.", "پژمان گرامی"),
]


@pytest.mark.parametrize(
    ("author", "letter", "reply", "gone"), ONE_PERSON, ids=[str(i) for i in range(len(ONE_PERSON))]
)
def test_one_person_has_one_placeholder(
    patterns_only: Scrubber, author: str, letter: str, reply: str, gone: str
) -> None:
    scrubbed = scrub(patterns_only, document(letter, author=author, response=reply)).documents[0]
    text = "\n".join((scrubbed.author, scrubbed.request, scrubbed.response))
    assert set(re.findall(r"NAME_\d+", text)) == {"NAME_1"}, text
    left = [word for word in gone.split() if re.search(rf"(?<!\w){word}(?!\w)", text, re.IGNORECASE)]
    assert left == [], text


# (author, letter, reply): two persons, whatever their names share.
TWO_PERSONS = [
    ("Desmond Harper Jr.", "I am Desmond Harper Jr.", "Desmond Harper Sr. is his father."),
    ("Desmond Harper", "I am Desmond Harper.", "Ms Margaret Harper is his sister."),
    ("Tamsin A. Oakes", "I am Tamsin A. Oakes.", "Dear Tamsin B. Oakes,"),
    ("Oakes, Tamsin", "I am Tamsin Oakes.", "Mr D. Oakes was told."),
    ("Tamsin Oakes", "I am Tamsin Oakes.", "Mr Oakes Tamsinson was told."),
    ("Ali bin Zahir Al Harrasi", "I am Ali bin Zahir Al Harrasi.", "Ali bin Humaid Al Harrasi came."),
    ("Khamis Al Ghailani", "I am Khamis Al Ghailani.", "Faisal bin Khamis Al Ghailani came."),
]


@pytest.mark.parametrize(("author", "letter", "reply"), TWO_PERSONS)
def test_two_persons_are_never_one(patterns_only: Scrubber, author: str, letter: str, reply: str) -> None:
    scrubbed = scrub(patterns_only, document(letter, author=author, response=reply)).documents[0]
    mine = set(re.findall(r"NAME_\d+", scrubbed.author + scrubbed.request))
    assert not mine & set(re.findall(r"NAME_\d+", scrubbed.response)), scrubbed.response
