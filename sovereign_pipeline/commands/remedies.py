"""The command for each act that an error names: the core says what to do, the command line says how.

What belongs here: one command line for each `Act`. What does not: what an error says (each package).
"""

from collections.abc import Mapping

from sovereign_pipeline.base.errors import Act, Remedy

COMMANDS: Mapping[Act, str] = {
    "check_recipe": "sovereign lines check {file}",
    "close_review": "sovereign review close {line}",
    "close_review_early": "sovereign review close {line} --reason TEXT --key FILE",
    "fetch_model": "sovereign models fetch {model}",
    "list_suites": "sovereign suites list",
    "look_at_source": "sovereign sources look {file}",
    "make_trust_root": (
        "sovereign-trust demonstration {trust} {keys} (for a trial; in production sovereign-trust init, offline)"
    ),
    "make_vault_key": "sovereign-vault keygen --private FILE --public FILE",
    "open_review": "sovereign review open {line}",
    "open_review_with_prompts": "sovereign review open {line} --prompts FILE",
    "rebuild_index": "sovereign recall --rebuild",
    "review_status": "sovereign review status {line}",
    "run_line": "sovereign run {line}",
    "show_mask": "sovereign lines check {file} --show-mask",
    "size_training": "sovereign size --model {model} --rows ROWS --tokens TOKENS_PER_ROW",
    "waive_gate": "sovereign gates waive {line} {gate} --reason TEXT --key FILE",
}


def command_for(remedy: Remedy) -> str:
    """The command that does what the error proposes."""
    return COMMANDS[remedy.act].format_map(remedy.about)
