"""The local engine on the packaged base model: a real vocabulary, real depth, Arabic of several tokens a letter."""

import asyncio
import dataclasses
from pathlib import Path

import pytest

from sovereign_pipeline.base_models.verified import chat_template
from sovereign_pipeline.serving.engines.local import LocalEngine, LocalSettings
from sovereign_pipeline.settings import Settings
from sovereign_pipeline_tests.serving.engines.conformance import LETTERS, Running
from sovereign_pipeline_tests.serving.tiny_adapters import TinyAdapters

pytestmark = pytest.mark.slow


def test_mixed_batch_is_each_alone_and_the_training_side_is_reproduced(tmp_path: Path, runner: asyncio.Runner) -> None:
    base = Settings.from_environment().models / "smollm2-135m-instruct"
    if not (base / "model.safetensors").is_file():
        pytest.skip("the packaged base model was not fetched")
    made = TinyAdapters(tmp_path)
    template = chat_template(base)
    adapters = []
    for number in range(2):
        directory = made.directory(f"lamps-1.0.{number}", seed=number, base=base, r=8, spread=0.02)
        adapter = made.deployable(directory.name, directory, template=template)
        adapters.append(dataclasses.replace(adapter, fingerprint=made.fingerprint(adapter, base)))
    engine = runner.run(LocalEngine.start(base, LocalSettings(threads=1)))
    try:
        for adapter in adapters:
            runner.run(engine.load(adapter))
        running = Running(engine, adapters, runner)
        asked = [(number % 2, LETTERS[number]) for number in range(4)]
        alone = [running.alone(*each, max_tokens=10).text for each in asked]
        mixed = running.together(*(running.ask(*each, max_tokens=10) for each in asked))
        assert [told.text for told in mixed] == alone
        assert all("\N{REPLACEMENT CHARACTER}" not in text for text in alone)
    finally:
        runner.run(engine.close())
