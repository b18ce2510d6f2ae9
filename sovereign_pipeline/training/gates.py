"""Evaluate the gates of the training stages, independently of the trainer's own measurements."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from heapq import nsmallest
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from sovereign_pipeline.base.files import digest_of, held, short
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.base.text import Countdown, counted, folded
from sovereign_pipeline.base_models.stages import chat_template, eos_ids, open_base_model, read_descriptor
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.dataset.canaries import is_canary
from sovereign_pipeline.dataset.jsonl import PAIRS, Row, documents_of, replaces_instruction, row_files
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.training import Sft, Training
from sovereign_pipeline.record.stage import Inputs, Progress, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.split import HELD_OUT
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.training.forward import passes_in
from sovereign_pipeline.training.job import lock_of_device
from sovereign_pipeline.training.models import dequantise, expected_lora_tensors, lora_settings, read_base
from sovereign_pipeline.training.preflight import available_memory
from sovereign_pipeline.training.report import TrainingReport, read_report
from sovereign_pipeline.training.reward_model import (
    CHANCE,
    HEAD,
    HELD_OUT_SCORES,
    LEAST_CASES,
    REWARD_DIRECTORY,
    PairScore,
    accuracy_by_case,
    held_out_accuracy,
    pair_scores,
    read_reward_report,
    read_scorer,
)
from sovereign_pipeline.training.rows import EncodedRow, encode, encode_turns, without_end_of_turn
from sovereign_pipeline.training.tuned_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TunedModel, tuned_model

END_OF_TURN = "end_of_turn_trained"
ADAPTER_NON_ZERO = "adapter_non_zero"
BASE_DIGEST = "base_digest_matches"
TOLD_APART = "pairs_told_apart"
COMPLETE = "reward_model_complete"
NAMES_IN_EVIDENCE = 4
SAMPLES = 4
CERTAIN_TO_STOP = 0.95
"""Probability of the end of turn. If the tuned model reaches this value, its probability need not be above the base
model's, because the base model may already have ended nearly every turn."""
LONGEST_SAMPLE = 128
"""Maximum length of a generated reply in tokens. The gate uses this limit or twice the length of the longest compared
reply, whichever is less."""
LARGEST_DIFFERENCE = {"float32": 0.02, "bfloat16": 0.5}
"""Largest accepted difference between the trainer's score and the gate's score of a reply, in logits. The scores differ
by rounding, which depends on the number of threads and on the batch."""


class _Ending(NamedTuple):
    """Measurements of how a model ends its turns."""

    log_probability: float
    """Log-probability of the end of turn after a row's reply (in a pair: the chosen reply), in nats; mean over rows."""
    stopped: int
    """Number of generated replies that end their turn."""


def evaluate_end_of_turn(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Encode the whole dataset again, and compare the base model with the tuned model on a few rows and on generated
    replies.

    The gate fails in each of these cases:
    - the dataset is empty, or the last token of a supervised turn is unsupervised or not an end-of-turn id;
    - a log-probability of the end of turn is not finite;
    - after the replies of the shortest rows, the mean log-probability of the end of turn is not above the base model's,
      and the tuned model's probability of the end of turn is below 0.95;
    - the tuned model ends at least two fewer greedy replies to these rows' prompts than the base model, or ends none
      although the base model ends some. The gate accepts that neither model ends a reply within the token limit: after
      a few steps on long replies, the end of turn is more probable, but greedy replies do not reach it yet.

    Both models are loaded as in training: in the recipe's precision or in NF4, on the GPU if there is one. On the CPU
    NF4 weights are dequantised once if memory allows, instead of in each of about a hundred passes.
    """
    go_offline()
    from transformers import AutoTokenizer

    directory = open_base_model(workplace.settings, inputs["base_model"], workplace.progress)
    ends = read_descriptor(inputs["base_model"])["eos_ids"]
    tuned = tuned_model(artifact)
    method, files = _dataset(workplace, inputs)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    encode_row = partial(
        encode_turns,
        tokenizer,
        method,
        eos_ids=ends,
        max_length=_max_length(workplace.line.training, method),
        supervise=workplace.line.training.sft.supervise,
    )
    count, unended, shortest = _look_at_rows(encode_row, files, ends, workplace.progress)
    if count == 0 or unended:
        return Verdict(
            False,
            f"{unended} of {count} rows have a supervised turn without a supervised end-of-turn token.",
            {"rows": count, "rows_without_end": unended},
        )
    with device_of_gate(workplace) as device:
        base, adapted = _endings(
            directory, tuned, shortest, ends, workplace.line.training.sft, device, workplace.progress
        )
    if not (math.isfinite(base.log_probability) and math.isfinite(adapted.log_probability)):
        return Verdict(False, f"The logits of the base or of this {tuned.holds} are not finite.", {"rows": count})
    certain = math.exp(adapted.log_probability) >= CERTAIN_TO_STOP
    learned = certain or adapted.log_probability > base.log_probability
    stops = adapted.stopped >= base.stopped - 1 and (adapted.stopped > 0 or base.stopped == 0)
    return Verdict(
        learned and stops,
        f"All {count} rows end in a supervised end-of-turn token. Its mean log-probability on {len(shortest)} rows "
        f"is {base.log_probability:.4f} (base) and {adapted.log_probability:.4f} ({tuned.holds}). Of {len(shortest)} "
        f"generated replies the base ends {base.stopped} and the {tuned.holds} {adapted.stopped}.",
        {
            "rows": count,
            "rows_without_end": 0,
            "rows_asked": [row.id for row in shortest],
            "log_probability_base": base.log_probability,
            "log_probability_adapter": adapted.log_probability,
            "stop_rate_base": base.stopped / len(shortest),
            "stop_rate_adapter": adapted.stopped / len(shortest),
        },
    )


def _dataset(workplace: Workplace, inputs: Inputs) -> tuple[str, list[Path]]:
    """Return the training method and the files of the rows. The method decides how rows are encoded. After RLHF, the
    files are those of the SFT dataset that provided the prompts."""
    preference = workplace.line.training.preference
    if PREFERENCE_DATASET.kind in inputs and workplace.line.training.rlhf is not None:
        dataset = workplace.store.open_input(inputs["sft_adapter"].manifest, TRAINING_DATASET.kind)
        return "sft", row_files(dataset)
    if PREFERENCE_DATASET.kind not in inputs or preference is None:
        return "sft", row_files(inputs[TRAINING_DATASET.kind])
    return preference.method, row_files(inputs[PREFERENCE_DATASET.kind])


def _max_length(training: Training, method: str) -> int:
    return (training.sft if method == "sft" or training.preference is None else training.preference).max_length


def _look_at_rows(
    encode_row: Callable[[Any], list[EncodedRow]], files: Sequence[Path], eos_ids: Sequence[int], progress: Progress
) -> tuple[int, int, list[EncodedRow]]:
    """Return the number of rows, the number of rows that have a turn without a supervised end-of-turn token, and the
    `SAMPLES` shortest rows. Canaries and undesirable replies (KTO) are not among the shortest rows."""
    count = 0
    for file in files:
        with file.open("rb") as lines:
            count += sum(1 for _ in lines)
    countdown = Countdown(progress, f"gate {END_OF_TURN}, encoding the dataset", count, "row")
    unended = 0

    def candidates() -> Iterator[EncodedRow]:
        nonlocal unended
        for done, content in enumerate(chain.from_iterable(map(read_jsonl, files)), start=1):
            rows = encode_row(content)
            unended += bool(without_end_of_turn(rows, eos_ids))
            countdown.reached(done)
            # Canaries are shorter than any document, and no user sends their prompts.
            yield from (row for row in rows if row.desirable is not False and not is_canary(row.id))

    shortest = nsmallest(SAMPLES, candidates(), key=lambda row: (row.longest, row.id))
    return count, unended, shortest


def _endings(
    base: Path,
    tuned: TunedModel,
    rows: list[EncodedRow],
    eos_ids: Sequence[int],
    sft: Sft,
    device: str,
    progress: Progress,
) -> tuple[_Ending, _Ending]:
    """Measure how the base model (first result) and the tuned model (second result) end their turns."""
    import torch
    from peft import PeftModel

    several = device == "cuda" and torch.cuda.device_count() > 1
    place = "auto" if several else {"": 0} if device == "cuda" else None

    def load(directory: Path, name: str) -> Any:
        progress(f"gate {END_OF_TURN}: loading the {name}")
        read = read_base(directory, sft, getattr(torch, sft.precision), place).eval()
        if sft.adapter == "qlora" and device == "cpu" and _fits_dequantised(read, sft):
            dequantise(read)
        return read

    def ending(model: Any, name: str) -> _Ending:
        progress(
            f"gate {END_OF_TURN}, {name}: measuring the end of turn on {len(rows)} rows and generating their replies"
        )
        value = _log_probability_of_end(model, rows)
        return _Ending(value, _stopped(model, rows, eos_ids, name, progress) if math.isfinite(value) else 0)

    with torch.no_grad(), passes_in(sft.precision, device):
        loaded = load(base, "base model")
        if tuned.holds == "model":
            of_base = ending(loaded, "base model")
            del loaded  # before a second model of the same size is loaded
            return of_base, ending(load(tuned.directory, "tuned model"), "tuned model")
        model: Any = PeftModel.from_pretrained(loaded, tuned.directory).eval()
        adapted = ending(model, "adapter")
        with model.disable_adapter():
            return ending(model, "base model"), adapted


def _fits_dequantised(model: Any, sft: Sft) -> bool:
    """Return True if the dequantised NF4 model, in the recipe's precision, fits into half of the available memory."""
    in_precision = model.num_parameters() * (2 if sft.precision == "bfloat16" else 4)
    return bool(2 * in_precision <= available_memory()[0])


def _log_probability_of_end(model: Any, rows: list[EncodedRow]) -> float:
    import torch

    total = 0.0
    for row in rows:
        ids = torch.tensor([row.completions[0].ids], device=model.device)
        logits = model(input_ids=ids[:, :-1], use_cache=False, logits_to_keep=1).logits[0, -1]
        total += float(torch.log_softmax(logits.float(), dim=-1)[ids[0, -1]])
    return total / len(rows)


def _stopped(model: Any, rows: list[EncodedRow], eos_ids: Sequence[int], name: str, progress: Progress) -> int:
    """Generate greedy replies in one batch. Returns the number of replies that end with an end-of-turn token."""
    from sovereign_pipeline.base_models.batch import generate

    tokens = min(LONGEST_SAMPLE, 2 * max(len(row.completions[0].reply_ids) for row in rows))
    countdown = Countdown(progress, f"gate {END_OF_TURN}, {name}, generating {len(rows)} replies", tokens, "token")
    replies = generate(
        model,
        [list(row.completions[0].prompt_ids) for row in rows],
        tokens,
        eos_ids,
        len(rows),
        lambda answers: countdown.reached(max(len(each.tokens) for each in answers)),
    )
    return sum(reply[-1] in eos_ids for reply in replies)


def evaluate_adapter_non_zero(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Check the tensors of the adapter (`_evaluate_adapter`) or, after full tuning, of the model (`_evaluate_model`).
    The gate fails if the recipe requires an adapter and the artifact contains a model, or the reverse."""
    go_offline()
    directory = open_base_model(workplace.settings, inputs["base_model"], workplace.progress)
    sft, tuned = workplace.line.training.sft, tuned_model(artifact)
    wanted = "model" if sft.adapter == "none" else "adapter"
    if tuned.holds != wanted:
        return Verdict(
            False, f"The artifact has {tuned.holds}/, but adapter: {sft.adapter} in the recipe requires {wanted}/.", {}
        )
    if tuned.holds == "model":
        return _evaluate_model(directory, tuned, sft.precision, workplace.progress)
    return _evaluate_adapter(directory, tuned, sft)


def _evaluate_adapter(base: Path, tuned: TunedModel, sft: Sft) -> Verdict:
    """Compare the adapter's tensor names, shapes and settings with the recipe. The gate also fails if a LoRA-B matrix
    is zero or a value is not finite."""
    tensors = _tensors_of(tuned.directory)
    expected = expected_lora_tensors(base, sft)
    wrong, dead, not_finite, unlike = _faults_of_adapter(tuned.directory, tensors, expected, sft)
    norms = [float(tensor.float().norm()) for name, tensor in tensors.items() if ".lora_B." in name]
    settings = ", ".join(unlike) or f"rank {sft.rank}, alpha {sft.alpha} and scaling as in the recipe"
    return Verdict(
        bool(norms) and not (wrong or dead or not_finite or unlike),
        f"{len(tensors)} of {len(expected)} tensors; {len(wrong)} missing, extra or of another shape; {len(dead)} "
        f"LoRA-B of zeros; {len(not_finite)} not finite; {settings}.",
        {
            "tensors": len(tensors),
            "expected_tensors": len(expected),
            "wrong": wrong[:NAMES_IN_EVIDENCE],
            "zero_lora_b": dead[:NAMES_IN_EVIDENCE],
            "not_finite": not_finite[:NAMES_IN_EVIDENCE],
            "smallest_lora_b_norm": min(norms) if norms and not not_finite else 0.0,
        },
    )


def _tensors_of(directory: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    tensors: dict[str, Any] = load_file(directory / ADAPTER_WEIGHTS)
    return tensors


def _faults_of_adapter(
    directory: Path, tensors: dict[str, Any], expected: dict[str, tuple[int, ...]], sft: Sft
) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return four lists: tensors that are missing, unexpected or of the wrong shape; LoRA-B matrices of zeros; tensors
    with values that are not finite; settings that differ from the recipe's."""
    import torch

    config = json.loads((directory / ADAPTER_CONFIG).read_bytes())
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return (
        sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)),
        sorted(name for name, tensor in tensors.items() if ".lora_B." in name and float(tensor.float().norm()) == 0),
        sorted(name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())),
        [
            f"{name} is {config.get(name)} (recipe {value})"
            for name, value in lora_settings(sft).items()
            if config.get(name) != value
        ],
    )


def _evaluate_model(base: Path, tuned: TunedModel, precision: str, progress: Progress) -> Verdict:
    """Load both directories with transformers, and compare the tuned model's tensors with the base model's.

    Names and shapes must be equal, and all values finite. Every linear layer and every fused block of experts must
    differ from the base model. The models are compared in the recipe's precision, so that rounding alone does not count
    as training. The tuned model is saved in this precision. Its config.json states float32 instead, because the model
    is trained in float32.
    """
    import torch
    from transformers import AutoModelForCausalLM

    progress(f"gate {ADAPTER_NON_ZERO}: loading the base model and the tuned model")
    before = AutoModelForCausalLM.from_pretrained(base, dtype="auto", local_files_only=True)
    after, loading = AutoModelForCausalLM.from_pretrained(
        tuned.directory,
        dtype=getattr(torch, precision),
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    expected, found = dict(before.named_parameters()), dict(after.named_parameters())
    lookups = {f"{name}.weight" for name, module in before.named_modules() if isinstance(module, torch.nn.Embedding)}
    layers = [name for name, tensor in expected.items() if tensor.ndim >= 2 and name not in lookups]
    wrong = {
        *loading["missing_keys"],
        *loading["unexpected_keys"],
        *(str(name) for name, *_ in loading["mismatched_keys"]),
        *(name for name in expected.keys() ^ found.keys()),
        *(name for name in expected.keys() & found.keys() if expected[name].shape != found[name].shape),
    }
    present = [name for name in expected if name not in wrong]
    changed: set[str] = set()
    not_finite: list[str] = []
    countdown = Countdown(progress, f"gate {ADAPTER_NON_ZERO}, comparing with the base model", len(present), "tensor")
    for done, name in enumerate(present, start=1):
        if not torch.equal(expected[name].to(found[name].dtype), found[name]):
            changed.add(name)
        if not bool(torch.isfinite(found[name]).all()):
            not_finite.append(name)
        countdown.reached(done)
    not_finite.sort()
    unchanged = sorted(name for name in layers if name not in changed)
    return Verdict(
        bool(layers) and not (wrong or unchanged or not_finite),
        f"{len(present)} of the base's {len(expected)} tensors; {len(wrong)} missing, extra or of another shape; "
        f"{len(not_finite)} not finite; {len(changed)} changed by the training; {len(unchanged)} of {len(layers)} "
        f"linear layers unchanged.",
        {
            "tensors": len(present),
            "expected_tensors": len(expected),
            "wrong": sorted(wrong)[:NAMES_IN_EVIDENCE],
            "changed_tensors": len(changed),
            "linear_layers": len(layers),
            "unchanged": unchanged[:NAMES_IN_EVIDENCE],
            "not_finite": not_finite[:NAMES_IN_EVIDENCE],
        },
    )


def evaluate_base_digest(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Hash the base model's files again, and compare the digests with the base_model artifact and the trainer's report.
    A fully tuned model must also have the chat template and end-of-turn ids of its base model."""
    directory = open_base_model(workplace.settings, inputs["base_model"], workplace.progress)
    descriptor = read_descriptor(inputs["base_model"])
    trained_on = read_report(artifact, TrainingReport).base_model
    on_disk = digest_of(descriptor["files"])  # each file was just hashed and equals the pinned file
    template = sha256(chat_template(directory).encode()).hexdigest()
    tuned = tuned_model(artifact)
    passed = (
        on_disk == descriptor["digest"] == trained_on.digest
        and template == descriptor["chat_template_sha256"] == trained_on.chat_template_sha256
        and (tuned.holds == "adapter" or _same_turns(tuned.directory, descriptor))
    )
    also = "" if tuned.holds == "adapter" else " The tuned model must have the same template and end-of-turn ids."
    return Verdict(
        passed,
        f"The base model on disk is {short(on_disk)}, the pinned one {short(descriptor['digest'])}, the one trained on "
        f"{short(trained_on.digest)}; the chat template is {short(template)}.{also}",
        {"on_disk": on_disk, "pinned": descriptor["digest"], "trained_on": trained_on.digest},
    )


def _same_turns(model: Path, descriptor: dict[str, Any]) -> bool:
    template = sha256(chat_template(model).encode()).hexdigest()
    return bool(template == descriptor["chat_template_sha256"] and eos_ids(model) == descriptor["eos_ids"])


def held_out_pairs(workplace: Workplace, split: Artifact) -> list[tuple[str, Row]]:
    """Return the case file and the row of each held-out preference pair, in the format of the training pairs."""
    replaces = replaces_instruction(workplace.institution, workplace.line)
    instruction = workplace.line.training.instruction
    documents = documents_of(PAIRS, split, HELD_OUT)
    return [(folded(each.case), PAIRS.row_of(each, instruction, replaces)[1]) for each in documents]


def evaluate_told_apart(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Score the held-out pairs again with the reward model. The gate passes if the confidence interval of the accuracy,
    clustered by case file, lies above chance.

    The gate is inconclusive if the interval includes chance, or if there are fewer than `LEAST_CASES` case files. It
    fails if the interval lies below chance, if a recorded score differs from the new score by more than
    `LARGEST_DIFFERENCE`, if a score is not finite, or if no pair fits into max_length. The two baselines (length only
    and words only) are reported but do not affect the verdict.
    """
    go_offline()
    from transformers import AutoTokenizer

    section = workplace.line.training.reward_model
    assert section is not None
    base = open_base_model(workplace.settings, inputs["base_model"], workplace.progress)
    pairs = held_out_pairs(workplace, inputs[LEAKAGE_SAFE_SPLIT.kind])
    tokenizer = AutoTokenizer.from_pretrained(base)
    ends = read_descriptor(inputs["base_model"])["eos_ids"]
    encoded = [encode(tokenizer, "reward", row, ends, section.max_length) for _, row in pairs]
    kept = [(row, pair) for row, pair in zip(encoded, pairs, strict=True) if row.longest <= section.max_length]
    workplace.progress(f"gate {TOLD_APART}: scoring {len(kept)} held-out pairs")
    with device_of_gate(workplace):
        scorer = read_scorer(base, artifact.path / REWARD_DIRECTORY, workplace.line.training.sft)
        rows = [row for row, _ in kept]
        scores = pair_scores(rows, scorer.scores([each for row in rows for each in row.completions]))
    wild = sum(not math.isfinite(each.margin) for each in scores)
    if wild or not scores:
        return Verdict(
            False, f"{wild} of {len(scores)} held-out pairs have scores that are not finite.", {"pairs": len(scores)}
        )
    training = list(chain.from_iterable(map(read_jsonl, row_files(inputs[PREFERENCE_DATASET.kind]))))
    cases = [case for _, (case, _) in kept]
    found = held_out_accuracy(scores, [pair for _, (_, pair) in kept], training)
    found = found.model_copy(update={"accuracy": accuracy_by_case(scores, cases)})
    evidence = {**found.model_dump(mode="json"), "pairs": len(kept), "cases": len(set(cases))}
    precision = workplace.line.training.sft.precision
    differing = _differing(artifact, scores, LARGEST_DIFFERENCE[precision])
    if differing:
        return Verdict(False, f"{differing} of {len(kept)} recorded scores differ from this model's scores.", evidence)
    message = (
        f"It prefers the chosen reply in {found.accuracy} of {found.accuracy.of} held-out pairs; chance is {CHANCE}. "
        f"The reply's length alone: {found.length_only}; single words alone: {found.words_only}. Where the length is "
        f"wrong: {found.where_length_is_wrong} of {found.where_length_is_wrong.of}."
    )
    if found.accuracy.high < CHANCE:
        return Verdict(False, message, evidence)
    if evidence["cases"] < LEAST_CASES:
        few = f"{counted(evidence['cases'], 'case file')}, too few for an interval; {LEAST_CASES} are required."
        return Verdict(False, f"{message} {few}", evidence, inconclusive=True)
    above = found.accuracy.low > CHANCE
    return Verdict(above, message, evidence, inconclusive=not above)


def _differing(artifact: Artifact, scores: Sequence[PairScore], largest: float) -> int:
    recorded = [PairScore.model_validate(row) for row in read_jsonl(artifact.file(HELD_OUT_SCORES))]
    if [each.id for each in recorded] != [each.id for each in scores]:
        return max(len(recorded), len(scores))
    return sum(
        not max(abs(one.chosen - other.chosen), abs(one.rejected - other.rejected)) <= largest
        for one, other in zip(recorded, scores, strict=True)
    )


def evaluate_complete(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Compare the reward model's tensors, settings and base model with the recipe. The gate also fails if a trained
    tensor is zero or a value is not finite."""
    go_offline()
    base = open_base_model(workplace.settings, inputs["base_model"], workplace.progress)
    descriptor = read_descriptor(inputs["base_model"])
    trained_on = read_reward_report(artifact).base_model
    problems = _problems_of_weights(base, artifact.path / REWARD_DIRECTORY, workplace.line)
    if digest_of(descriptor["files"]) != trained_on.digest:
        problems.append(f"it was trained on the base model {short(trained_on.digest)}")
    if descriptor["chat_template_sha256"] != trained_on.chat_template_sha256:
        problems.append("it was trained with a chat template that differs from the base model's")
    if problems:
        return Verdict(False, f"The reward model does not match the recipe: {'; '.join(problems)}.", {})
    return Verdict(
        True,
        f"Adapter and head are the recipe's, finite and changed; the base model is {short(trained_on.digest)}.",
        {"base_model": trained_on.digest},
    )


def _problems_of_weights(base: Path, directory: Path, line: Line) -> list[str]:
    import torch

    sft, tensors = line.training.sft, _tensors_of(directory)
    head = tensors.pop(HEAD, None)
    wrong, dead, not_finite, unlike = _faults_of_adapter(directory, tensors, expected_lora_tensors(base, sft), sft)
    if head is not None and not bool(torch.isfinite(head).all()):
        not_finite.append(HEAD)
    return [
        *([f"{len(wrong)} tensors are missing, unexpected or of the wrong shape"] if wrong else []),
        *(["its head is missing, zero or the wrong size"] if head is None or len(head) != 1 or not head.any() else []),
        *([f"{len(not_finite)} tensors are not finite"] if not_finite else []),
        *([f"{len(dead)} LoRA-B matrices are zero"] if dead else []),
        *([f"settings that differ: {', '.join(unlike)}"] if unlike else []),
    ]


@contextmanager
def device_of_gate(workplace: Workplace) -> Iterator[str]:
    """Yield the gate's device: `cuda`, locked so that no trainer uses the GPU; `cpu` on a machine without a GPU."""
    import torch

    if not torch.cuda.is_available():
        yield "cpu"
        return
    with held(lock_of_device(workplace.settings.home / "locks"), workplace.progress):
        yield "cuda"
        torch.cuda.empty_cache()
