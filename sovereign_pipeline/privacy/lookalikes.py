"""Letters of other scripts that look like Latin or Arabic ones: the data of `normalisation.py`.

The pairs are a selection from `confusables.txt` of Unicode Technical Standard 39 (Unicode Security Mechanisms), for the
scripts in which a whole Latin name can be imitated. What belongs here: single letters. What does not: forms that NFKC
resolves, such as full-width and mathematical letters.
"""

_PAIRS = (
    # Cyrillic
    ("абвеикмнорстухгпіјѕԁһԛԝӏґѵАВЕКМНОРСТУХІЈЅԚԜӀЗ", "aбbeukmhopctyxrnijsdhqwlrvABEKMHOPCTYXIJSQWI3"),
    # Greek
    ("αβγεηικνοπρτυχωϳΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "aβyenikvonptuxwjABEZHIKMNOPTYX"),
    # Armenian
    ("օհոսցզԼՕՍՏ", "ohnugqLOUS"),
    # Cherokee
    ("ᎪᏴᏟᎠᎬᎬᏀᎻᎫᏦᏞᎷᏢᏒᏚᎢᏙᎳᏃ", "ABCDEEGHJKLMPRSTVWZ"),
    # Latin letters of phonetic alphabets
    ("ıɑɡɩᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "iagiabcdefghijklmnoprstuvwyz"),
    # Persian and Urdu forms of Arabic letters
    ("یکھہەۍ", "يكههيي"),
)

LOOKALIKES: dict[str, str] = {
    imitation: letter
    for imitations, letters in _PAIRS
    for imitation, letter in zip(imitations, letters, strict=True)
    if imitation != letter
}
"""Letter -> the one it is taken for."""
