"""What identifies a cached score besides its inputs: every source of `evaluation/arms/`, and no other."""

import shutil
from pathlib import Path

from sovereign_pipeline.evaluation.arms import score_cache
from sovereign_pipeline.evaluation.arms.score_cache import sources_digest


def copied_sources(target: Path) -> Path:
    """The sources of the evaluation, so that one can be changed."""
    shutil.copytree(score_cache.SOURCES.parent, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def test_a_changed_byte_in_any_source_of_the_arms_is_another_identity(tmp_path: Path) -> None:
    sources = copied_sources(tmp_path / "evaluation")
    seen = {sources_digest(sources / "arms")}
    assert seen == {sources_digest(score_cache.SOURCES)}
    files = sorted((sources / "arms").rglob("*.py"))
    assert {"harness.py", "models.py", "token_tree.py", "chat.py"} < {file.name for file in files}
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content + b"#")
        seen.add(sources_digest(sources / "arms"))
        file.write_bytes(content)
    assert len(seen) == 1 + len(files)


def test_a_change_elsewhere_in_the_evaluation_is_the_same_identity(tmp_path: Path) -> None:
    sources = copied_sources(tmp_path / "evaluation")
    before = sources_digest(sources / "arms")
    for file in sources.rglob("*.py"):
        if file.parent.name != "arms":
            file.write_bytes(file.read_bytes() + b"#")
    assert sources_digest(sources / "arms") == before
