"""Published chat templates by name: TRL's copies, our own, and our descriptions of those that TRL has not."""

from pathlib import Path
from typing import Any

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline_tests.packaged_base import packaged_base


def chat_template_of(name: str) -> str:
    import trl

    published = Path(trl.__file__).parent / "chat_templates"
    for folder in (Path(__file__).parent / "templates", PROJECT_ROOT / "data" / "models", published):
        if (folder / f"{name}.jinja").is_file():
            return (folder / f"{name}.jinja").read_text(encoding="utf-8")
    raise FileNotFoundError(name)


def tokenizer_with(name: str) -> Any:
    """The packaged model's tokenizer with another chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(packaged_base())
    tokenizer.chat_template = chat_template_of(name)
    return tokenizer
