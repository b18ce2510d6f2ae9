"""Invented identifiers in odd forms, and what only looks like one.

What belongs here: the two tables. What does not: reading them (`test_odd_forms.py`), spellings that hide a value from a
plain pattern (`privacy/spellings.py`). Numbers with check digits are valid by them and belong to nobody.
"""

from typing import NamedTuple

from sovereign_pipeline.policy.personal_data import Kind


class OddForm(NamedTuple):
    """A text, and the pieces of it that must be gone with the kind that takes their place."""

    kind: Kind
    text: str
    hidden: tuple[str, ...]


def _form(kind: Kind, text: str, *hidden: str) -> OddForm:
    return OddForm(kind, text, hidden)


ODD_FORMS = (
    # phones with two separators, or separators of two characters
    _form("PHONE", "ring 9234 - 1187 after noon", "9234", "1187"),
    _form("PHONE", "ring 9234--1187 after noon", "9234", "1187"),
    _form("PHONE", "ring 9234. 1187 after noon", "9234", "1187"),
    _form("PHONE", "it is (+968) - 9234 - 1187, any day", "9234", "1187"),
    _form("PHONE", "it is +968 . 2469 . 1187, any day", "2469", "1187"),
    _form("PHONE", "it is 00968 - 2469 - 1187, any day", "2469", "1187"),
    _form("PHONE", "GSM: 92 - 34 - 11 - 87", "92 - 34", "11 - 87"),
    _form("PHONE", "at home 24 69 -12 34 in the evening", "24 69", "12 34"),
    _form("PHONE", "the clerk, +44 (0) 20 - 7946 - 0018, knows", "7946", "0018"),
    _form("PHONE", "the clerk, +971 (0)50 / 123 45 67, knows", "123 45 67"),
    _form("PHONE", "tel 020 7946 -- 0018", "7946", "0018"),
    _form("PHONE", "fax (202) 555 - 0143", "555", "0143"),
    _form("PHONE", "he gave 212 / 664 - 7665 to the guard", "664", "7665"),
    _form("PHONE", "he gave 212-664 - 7665 to the guard", "664", "7665"),
    _form("PHONE", "he gave 212 . 664 . 7665 to the guard", "664", "7665"),
    _form("PHONE", "contact us: 050 - 123 - 4567", "123", "4567"),
    _form("PHONE", "whatsapp: 9234 / 11 87", "9234", "11 87"),
    _form("PHONE", "هاتف ٩٢٣٤ - ١١ - ٨٧", "٩٢٣٤", "٨٧"),
    _form("PHONE", "للتواصل ٩٢٣٤ - ١١٨٧ مساءً", "٩٢٣٤", "١١٨٧"),
    _form("PHONE", "it is 1-212 - 664 - 7665 from abroad", "664", "7665"),
    _form("PHONE", "it is 9 2 3 4 - 1 1 8 7, digit by digit", "9 2 3 4", "1 1 8 7"),
    # Emirates ID
    _form("NID", "Emirates ID 784-1983-1234567-5", "784", "1234567-5"),
    _form("NID", "she showed 784/1983/1234567/5 at the gate", "784/1983", "1234567"),
    _form("NID", "she showed 784 1983 1234567 5 at the gate", "784 1983", "1234567"),
    _form("NID", "she showed 784.1983.1234567.5 at the gate", "784.1983", "1234567"),
    _form("NID", "EID:784198312345675", "784198312345675"),
    _form("NID", "رقم الهوية ٧٨٤-١٩٨٣-١٢٣٤٥٦٧-٥", "٧٨٤-١٩٨٣", "١٢٣٤٥٦٧"),
    # the other national ids of the Gulf
    _form("RESIDENT_CARD", "iqama no. 2045 7832 10", "2045", "7832 10"),
    _form("NID", "Saudi national ID: 1-0457-8321-2", "0457", "8321"),
    _form("RESIDENT_CARD", "رقم الإقامة ٢٠٤٥٧٨٣٢١٠", "٢٠٤٥٧٨٣٢١٠"),
    _form("NID", "Kuwaiti civil ID 2830 5040 1235", "2830", "5040", "1235"),
    _form("NID", "Civil ID No: 283-0504-01235", "283", "0504", "01235"),
    _form("NID", "QID 283 634 01234", "283", "634", "01234"),
    _form("NID", "Qatari ID (QID): 28363401234", "28363401234"),
    _form("NID", "CPR 8305 0123 4", "8305", "0123"),
    _form("NID", "CPR number is 830501234.", "830501234"),
    _form("NID", "الرقم الشخصي ٨٣٠٥٠١٢٣٤", "٨٣٠٥٠١٢٣٤"),
    _form("NID", "البطاقة الشخصية رقم ٢٨٣٦٣٤٠١٢٣٤", "٢٨٣٦٣٤٠١٢٣٤"),
    # cards
    _form("CARD", "charged to 4111.1111.1111.1111 twice", "4111.", ".1111"),
    _form("CARD", "charged to 5500 - 0000 - 0000 - 0004 twice", "5500", "0004"),
    _form("CARD", "card ending in 4821 was declined", "4821"),
    _form("CARD", "credit card **** **** **** 4821", "4821"),
    _form("CARD", "debit card XXXX-XXXX-XXXX-4821", "4821"),
    _form("CARD", "Visa 4111 11** **** 4821", "4111", "4821"),
    _form("CARD", "mastercard •••• 4821 expired", "4821"),
    _form("CARD", "بطاقة ائتمان **** **** **** ٤٨٢١", "٤٨٢١"),
    # dates of birth
    _form("DATE_OF_BIRTH", "date of birth 12/07/1404 H", "12/07", "1404"),
    _form("DATE_OF_BIRTH", "born on 12 Rajab 1404", "12 Rajab", "1404"),
    _form("DATE_OF_BIRTH", "DOB: 1404-07-12 AH", "1404-07"),
    _form("DATE_OF_BIRTH", "born 3 Dhul Hijjah 1399 AH", "Dhul", "1399"),
    _form("DATE_OF_BIRTH", "تاريخ الميلاد ١٢/٧/١٤٠٤هـ", "١٢/٧", "١٤٠٤"),
    _form("DATE_OF_BIRTH", "من مواليد ١٢ رجب ١٤٠٤", "رجب", "١٤٠٤"),
    _form("DATE_OF_BIRTH", "ولدت في 3 ذو الحجة 1399 هـ", "الحجة", "1399"),
    _form("DATE_OF_BIRTH", "date of birth (Hijri): 12-7-1404", "1404"),
    _form("DATE_OF_BIRTH", "born in Ramadan 1404", "Ramadan", "1404"),
    _form("DATE_OF_BIRTH", "مولود في ٥ شعبان ١٤١٠", "شعبان", "١٤١٠"),
    # plates
    _form("PLATE", "plate AB 4521 was clamped", "AB", "4521"),
    _form("PLATE", "vehicle no. A/77123", "A/77123"),
    _form("PLATE", "his car (plate: DXB-K-48211) was clamped", "48211"),
    _form("PLATE", "رقم اللوحة أ ب ٤٥٢١", "أ ب", "٤٥٢١"),
    _form("PLATE", "المركبة رقم ب/٧٧١٢٣", "٧٧١٢٣"),
    _form("PLATE", "the car with plate Dubai A 12345", "12345"),
    _form("PLATE", "السيارة رقم 4521 / أ ب", "4521", "أ ب"),
    _form("PLATE", "vehicle registration 4521 AB", "4521", "AB"),
    _form("PLATE", "سيارتي رقم 4521 أ ب", "4521", "أ ب"),
    _form("PLATE", "their car no. 45213 B", "45213"),
    # registrations of firms
    _form("CR", "commercial registration number (CRN) 1234567", "1234567"),
    _form("CR", "CR 1/23456/7 of the firm", "1/23456/7"),
    _form("CR", "C.R. No. 1234567/2", "1234567"),
    _form("CR", "commercial register: 1/123/4567", "1/123/4567"),
    _form("CR", "السجل التجاري رقم ١/٢٣٤٥٦/٧", "٢٣٤٥٦"),
    # vessels
    _form("PLATE", "the tanker, IMO 9074729, sailed", "9074729"),
    _form("PLATE", "the tanker (IMO number: 9074 729) sailed", "9074", "729"),
    _form("PLATE", "her MMSI is 461 000 123", "461", "000 123"),
    _form("PLATE", "the dhow, official number 48213, sailed", "48213"),
    _form("PLATE", "السفينة رقم ٤٨٢١٣ غادرت", "٤٨٢١٣"),
    _form("PLATE", "the tanker, I.M.O. No. 9074729, sailed", "9074729"),
    # before their label
    _form("PLATE", "4521 أ ب (لوحة)", "4521", "أ ب"),
    _form("NID", "1045 7832 (civil number) is on file", "1045", "7832"),
    _form("CR", "we trade under 1234567 (CR)", "1234567"),
    _form("PASSPORT", "she holds 1234567 (passport no.)", "1234567"),
    _form("CR", "1234567 is our commercial registration", "1234567"),
    _form("PASSPORT", "1234567 - passport number", "1234567"),
    _form("NID", "104578 32 هو رقمه المدني", "104578", "32 هو"),
    _form("PASSPORT", "لديه ١٢٣٤٥٦٧ (جواز سفر)", "١٢٣٤٥٦٧"),
    _form("PLATE", "4521 AB (plate) was clamped", "4521", "AB"),
    # in the columns of a table
    _form("CR", "| Firm | CR no. | Town |\n| --- | --- | --- |\n| Lamp Works | 1234567 | Sur |", "1234567"),
    _form("PASSPORT", "Name | Passport | Nights\nS. H. | 1234567 | 3\nR. H. | 7654321 | 2", "1234567", "7654321"),
    _form("CR", "Firm\tCR number\tFee\nLamp Works\t1234567\t20\nRope Works\t1284406\t25", "1234567", "1284406"),
    _form("PLATE", "| Plate | Fine |\n|---|---|\n| 4521 AB | 20 |\n| 88 D | 35 |", "4521", "88 D"),
    _form("NID", "Name,Civil no.,Berth\nS. H.,1045 7832,12", "1045", "7832"),
    _form("DATE_OF_BIRTH", "| Name | Date of birth |\n|---|---|\n| S. H. | 04/05/1983 |", "04/05/1983"),
    _form("CR", "| المؤسسة | السجل التجاري |\n| المصابيح | ١٢٣٤٥٦٧ |", "١٢٣٤٥٦٧"),
)

LOOK_ALIKES = (
    "under Royal Decree 53/2019 and Law No. 22 of 2020",
    "Article 12, paragraphs 3 - 4 and 7 - 9, of Decree 99/2005",
    "Ministerial Decision No. 146/2021, as amended by 183/2023",
    "on 12 - 05 - 2024, between 10:30 - 11:45",
    "from 12.05.2024 - 14.06.2024",
    "in the years 2019 - 2020 and 2021 - 2022",
    "a fee of OMR 9 234 118 in all",
    "1,234,567 rials; 9,234,118 rials",
    "between 2,500 - 3,500 and 12,000 - 15,000 tonnes",
    "reference PRM/2024/017 and file 2024/117",
    "our letter 4521/2024 of 3/4/2024",
    "circular 12/2024, annex 3, table 4-2",
    "tender 22/2023 - lot 4 - item 118",
    "sections 101, 102 and 103; sections 21 - 24",
    "pages 123 - 126, 204 - 209",
    "the ratio was 12 : 34 : 56",
    "version 10.4.57 of the form, ISO 9001:2015",
    "at 23.61 N of the line, 58.54 m E",
    "rows 1 2 3 4 5 6 7 8 of the sheet",
    "33.5 - 35.2 - 37.9 degrees",
    "a growth of 3.5 % - 4.25 % - 5.0 %",
    "berths 101/102/103 - 104/105/106",
    "| Year | Vessels | Tonnes |\n|---|---|---|\n| 2021 | 1482 | 48213 |\n| 2022 | 1501 | 50117 |",
    "the Hijri year 1445, from 12/07/1445 H",
    "in Rajab 1445, on 12 Rajab 1445, the office was closed",
    "credit card payments rose by 4821 in 2024",
    "card index **** see note",
    "the vessel carried 4521 tonnes; the ship left at 1130",
    "the vehicle weighs 4521 kg; a plate of 12 mm",
    "the account for 2024 (civil works) was closed",
    "in 2024 (commercial register excluded) 4821 firms",
    "a passport costs 20 rials; 4821 passports were issued",
    "of 48213 passports, 1482 were renewed",
    "there are 12345 commercial registrations",
    "visas ending in 2025, and a visa ending in 2025",
    "the ship No. 2024 budget",
    "the IMO adopted it in 2023; IMO resolution A.1117(30)",
    "IMO Circular 4204/Add.27 of 2021",
    "المرسوم السلطاني رقم ٥٣/٢٠١٩ والقانون رقم ٢٢ لسنة ٢٠٢٠",
    "المادة ١٢ من القرار الوزاري رقم ١٤٦/٢٠٢١",
    "بتاريخ ١٢/٧/١٤٤٥هـ الموافق ٢٤/١/٢٠٢٤",
    "في الفترة من ٢٠١٩ - ٢٠٢٠",
    "مبلغ ٩ ٢٣٤ ١١٨ ريالاً عمانياً",
)
"""Texts in which there is nothing to find."""
