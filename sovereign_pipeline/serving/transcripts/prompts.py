"""Prompts for a blind review, out of transcripts: what callers asked, as `sovereign review open --prompts` takes it.

Only a conversation of one turn is a prompt: an answer to a later one depends on those before. What belongs here: that
choice. What does not: opening transcripts (`reading.py`), and the review.
"""

from collections.abc import Iterable, Iterator

from sovereign_pipeline.review.prompts import PromptRow
from sovereign_pipeline.serving.letters import language_of
from sovereign_pipeline.serving.transcripts.records import Transcript
from sovereign_pipeline.split.similarity import normal_text


def prompt_of(transcript: Transcript) -> str | None:
    """The one question of a conversation of one turn; None for another conversation."""
    if len(transcript.messages) != 1 or transcript.messages[0].role != "user":
        return None
    return transcript.messages[0].content.strip() or None


def prompts_of(transcripts: Iterable[Transcript]) -> Iterator[PromptRow]:
    """Each question once, whatever its punctuation and spacing."""
    seen: set[str] = set()
    for transcript in transcripts:
        prompt = prompt_of(transcript)
        if prompt is None or normal_text(prompt) in seen:
            continue
        seen.add(normal_text(prompt))
        yield PromptRow(
            id=f"asked-{transcript.given[:16]}",
            language=language_of(prompt),
            classification=transcript.classification,
            prompt=prompt,
        )
