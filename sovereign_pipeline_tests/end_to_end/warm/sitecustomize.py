"""Load libraries of models in the process from which a run's steps are forked, so that not every step loads them.

Python imports this module at its start, in each process whose PYTHONPATH leads here. A GPU's driver may not be loaded
before a fork.
"""

import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

IMPORTED = (
    "dagster._core.storage.sqlite_storage",
    "torch",
    "transformers.models.llama.modeling_llama",
    "peft",
    "presidio_analyzer",
    "mlflow",
    "scipy.stats",
    "lm_eval.models.huggingface",
)

if "step_server" in " ".join(sys.orig_argv) and not Path("/dev/nvidiactl").exists():
    for name in IMPORTED:
        with suppress(ImportError):
            import_module(name)
