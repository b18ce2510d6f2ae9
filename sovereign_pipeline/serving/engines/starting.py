"""Starting the engine that the institution chose for a base model.

What belongs here: that choice. What does not: any engine.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.policy.serving import EngineChoice
from sovereign_pipeline.serving.engines.supervised import SupervisedEngine
from sovereign_pipeline.serving.tokens import serving_directory


async def start_engine(
    chosen: EngineChoice, settings: Settings, base: Path, base_model_digest: str, threads: int | None = None
) -> SupervisedEngine[Any]:
    """The engine, once its base model is in memory.

    Args:
        base: a verified model directory.
        base_model_digest: over its files; adapters of another one are refused.
        threads: on the processor; None for what was chosen.

    Raises EngineRefused for a base model that it does not do, EngineLost, and InputError where the administrator has
    named no vLLM.
    """
    threads = threads or chosen.threads
    if chosen.engine == "vllm":
        from sovereign_pipeline.serving.engines.vllm import VllmEngine
        from sovereign_pipeline.serving.engines.vllm_server import VllmSettings

        if settings.vllm_python is None and chosen.vllm.url is None:
            raise InputError(
                f"serving.engine is vllm, and {VARIABLES['vllm_python']} names no interpreter with vLLM.",
                "Set it for the account that serves, such as to /opt/vllm/bin/python.",
            )
        with_vllm = VllmSettings(chosen.vllm, settings.vllm_python, serving_directory(settings) / "vllm")
        if threads is not None:
            with_vllm = replace(with_vllm, threads=threads)
        return await VllmEngine.start(base, with_vllm, base_model_digest=base_model_digest)
    from sovereign_pipeline.serving.engines.local import LocalEngine, LocalSettings

    here = LocalSettings(resident=chosen.local.adapters, cache_tokens=chosen.local.cache_tokens)
    if threads is not None:
        here = replace(here, threads=threads)
    return await LocalEngine.start(base, here, base_model_digest=base_model_digest)
