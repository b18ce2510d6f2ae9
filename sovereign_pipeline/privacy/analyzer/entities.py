"""What Presidio calls each kind of personal data.

What belongs here: the two names of a kind. What does not: Presidio itself; nothing here imports it.
"""

from sovereign_pipeline.policy.personal_data import Kind

# Presidio's own names where it has one, so that its operators and other recognizers agree with them.
ENTITY_OF: dict[Kind, str] = {
    "CREDENTIAL": "CREDENTIAL",
    "EMAIL": "EMAIL_ADDRESS",
    "IBAN": "IBAN_CODE",
    "IP": "IP_ADDRESS",
    "COORDINATES": "COORDINATES",
    "SSN": "US_SSN",
    "DRIVING_LICENCE": "DRIVING_LICENCE",
    "NID": "OM_CIVIL_NUMBER",
    "RESIDENT_CARD": "OM_RESIDENT_CARD",
    "PASSPORT": "PASSPORT",
    "CR": "OM_COMMERCIAL_REGISTRATION",
    "DATE_OF_BIRTH": "DATE_OF_BIRTH",
    "ADDRESS": "STREET_ADDRESS",
    "PO_BOX": "PO_BOX",
    "PLATE": "VEHICLE_PLATE",
    "PHONE": "PHONE_NUMBER",
    "CARD": "CREDIT_CARD",
    "ACCOUNT": "BANK_ACCOUNT",
    "URL": "URL",
    "NAME": "PERSON",
    "AGE": "AGE",
    "DATE": "DATE_TIME",
    "ORGANISATION": "ORGANIZATION",
    "PLACE": "LOCATION",
    "NATIONALITY": "NRP",
}
KIND_OF: dict[str, Kind] = {entity: kind for kind, entity in ENTITY_OF.items()}
