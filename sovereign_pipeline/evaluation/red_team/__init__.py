"""The red team: refusals, injections, disclosures, loops and memorisation, and how good their judges are.

What does not belong here: the prompts (`suites/red_team_prompts.py`), the detectors of personal data (`privacy/`), and
the margins (`policy/margins.py`).
"""
