"""Starting the engine that the institution names.

What belongs here: that choice. What does not: any engine.
"""

from dataclasses import replace
from pathlib import Path

from sovereign_pipeline.policy.serving import Serving
from sovereign_pipeline.serving.engines.engine import Engine


async def start_engine(serving: Serving, base: Path, base_model_digest: str, threads: int | None) -> Engine:
    """The engine, once its base model is in memory.

    Args:
        base: a verified model directory.
        base_model_digest: over its files; adapters of another one are refused.
        threads: on the processor; None for the engine's own default.

    Raises EngineRefused for a base model that it does not do, and EngineLost.
    """
    if serving.vllm is not None and serving.engine == "vllm":
        from sovereign_pipeline.serving.engines.vllm import VllmEngine
        from sovereign_pipeline.serving.engines.vllm_server import VllmSettings

        with_vllm = VllmSettings(serving.vllm)
        if threads is not None:
            with_vllm = replace(with_vllm, threads=threads)
        return await VllmEngine.start(base, with_vllm, base_model_digest=base_model_digest)
    from sovereign_pipeline.serving.engines.local import LocalEngine, LocalSettings

    here = LocalSettings() if threads is None else LocalSettings(threads=threads)
    return await LocalEngine.start(base, here, base_model_digest=base_model_digest)
