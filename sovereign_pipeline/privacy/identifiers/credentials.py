"""Passwords, keys and tokens: what opens something to whoever holds it.

What belongs here: their forms and labels. The forms of single services' keys are detect-secrets'; its rules by entropy
are not used, since they take every reference number for a secret.
"""

import importlib
import re
from functools import cache

_SERVICES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("aws", "AWSKeyDetector", ("a3t", "abia", "acca", "akia", "asia", "aws")),
    ("azure_storage_key", "AzureStorageKeyDetector", ("accountkey=",)),
    ("github_token", "GitHubTokenDetector", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
    ("gitlab_token", "GitLabTokenDetector", ("glpat-", "gldt-", "glft-", "glsoat-", "glrt-", "gr1348941", "glcbt-")),
    ("mailchimp", "MailchimpDetector", ("-us",)),
    ("openai", "OpenAIDetector", ("t3blbkfj",)),
    ("pypi_token", "PypiTokenDetector", ("pypi-",)),
    ("sendgrid", "SendGridDetector", ("sg.",)),
    ("slack", "SlackDetector", ("xox", "hooks.slack.com")),
    ("square_oauth", "SquareOAuthDetector", ("sq0csp-",)),
    ("stripe", "StripeDetector", ("k_live_",)),
    ("telegram_token", "TelegramBotTokenDetector", (":aa",)),
    ("twilio", "TwilioKeyDetector", ("ac", "sk")),
)
"""Module and class of detect-secrets, and words in small letters of which such a key holds one."""


@cache
def of_services() -> tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]:
    """Pattern of a service's keys -> the words of which such a key holds one. Imports detect-secrets."""
    return tuple(
        (pattern, signs)
        for module, name, signs in _SERVICES
        for pattern in getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name).denylist
    )


JSON_WEB_TOKEN = re.compile(r"\beyJ[\w=-]{8,}\.[\w=-]{8,}(?:\.[\w=-]*)?")
PRIVATE_KEY = re.compile(
    r"-{3,5} ?BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)? ?-{3,5}"
    r"(?:[^-]{0,8000}-{3,5} ?END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)? ?-{3,5}|[A-Za-z0-9+/=\s]{0,8000})"
)
IN_AN_ADDRESS = re.compile(r"://[^\s/:@{}]{1,100}:(?P<value>[^\s/@{}]{1,200})@")

_LABEL = (
    r"\b(?:pass ?(?:word|code|phrase)|pwd|passwd|pin(?: code| number)?|(?:access|security|login|door|alarm) code|"
    r"(?:api|secret|access|private|account|encryption|shared|licen[cs]e)[ _-]?key|"
    r"(?:access|auth|authentication|authorization|api|refresh|session|bearer)[ _-]?token|client[ _-]?secret)"
)
_ARABIC_LABEL = (
    r"(?:كلمة (?:ال)?(?:مرور|سر)|(?:ال)?رقم (?:ال)?سري|(?:ال)?رمز (?:ال)?(?:سري|دخول|مرور|تحقق)|"
    r"مفتاح (?:ال)?(?:وصول|دخول))"
)
_VALUE = r"[^\s\"'`,;<>«»]{3,199}[^\s\"'`,;<>«».?)\]:]"
BY_LABEL = re.compile(
    rf"(?i){_LABEL}(?: (?:for|of|to) [^\n:=]{{1,40}}?)?[\"']?\s{{0,3}}"
    r"(?:[:=]{1,2}>?|\bis now\b|\bis\b|\bwas\b)"
    rf"\s{{0,3}}[\"'`]?(?P<value>{_VALUE})"
    rf"|{_ARABIC_LABEL}(?:[^\n:=]{{0,30}}?\s{{0,3}}[:=]|\s(?:هي|هو)\s)\s{{0,3}}[\"'`«]?(?P<arabic>{_VALUE})"
    rf"|{_ARABIC_LABEL}\s(?=\S{{0,30}}\d)(?P<bare>{_VALUE})"
)
SIGNS_OF_LABELS = (
    *("pass", "pwd", "pin", "code", "key", "token", "secret"),
    *("مرور", "كلمة السر", "كلمة سر", "سري", "رمز", "مفتاح"),
)


def looks_like_a_credential(value: str) -> bool:
    """Whether a value behind a label is one, and not a word of the sentence: it holds a digit, a sign between letters,
    or capitals behind its first letter."""
    if any(map(str.isdigit, value)):
        return re.fullmatch(r"\d{1,2}-?(?:digits?|characters?|letters?)", value) is None
    has_sign = re.search(r"\w[^\w\s'’.-]\w|[!#$%&*+?@^_~]", value) is not None
    return has_sign or value not in (value.lower(), value.upper(), value.capitalize())
