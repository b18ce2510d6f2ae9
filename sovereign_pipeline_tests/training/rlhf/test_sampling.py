"""Sampling from a tiny model: by its own distribution, independently of the batch, and as the update computes it."""

import json
import os
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base.settings import OFFLINE_ENVIRONMENT
from sovereign_pipeline.policy.rlhf import Rollouts
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.rlhf.sampling import Rollout, VllmSampler, sample
from sovereign_pipeline.training.rows import Completion
from sovereign_pipeline_tests.conftest import VLLM_PYTHON
from sovereign_pipeline_tests.dagster.stand_ins import Server
from sovereign_pipeline_tests.tiny_model import EOS_ID, save_tiny_model
from sovereign_pipeline_tests.training.conftest import letters
from sovereign_pipeline_tests.training.tiny_reward import reward_job
from sovereign_pipeline_tests.training.trainings import learn, log, run
from sovereign_pipeline_tests.waiting import SECONDS, free_port, wait_until


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Any]:
    from transformers import AutoModelForCausalLM

    from sovereign_pipeline.training.forward import use_row_by_row

    loaded = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attn_implementation="sdpa")
    use_row_by_row(loaded)
    yield loaded


PROMPTS = [[5, 9, 40], [7] * 11, [300, 20, 11, 12, 13, 90, 91]]


def drawn(model: Any, prompts: list[list[int]], **changes: Any) -> list[Rollout]:
    settings: dict[str, Any] = {"most_tokens": 12, "temperature": 0.7, "seed": 3, **changes}
    return sample(model, prompts, [EOS_ID], **settings)


def test_a_reply_does_not_depend_on_what_else_is_in_its_batch(model: Any) -> None:
    together = drawn(model, PROMPTS, seed=None)
    for prompt, found in zip(PROMPTS, together, strict=True):
        (alone,) = drawn(model, [prompt], seed=None)
        assert alone.completion == found.completion and alone.ended == found.ended
        assert alone.log_probabilities == pytest.approx(found.log_probabilities, abs=1e-5)


def test_tokens_come_as_often_as_the_distribution_has_them_however_rare(model: Any) -> None:
    """Nothing is cut off: with top-k 50, what generation fills in unasked, the rarer half would never come."""
    prompt = [5, 9, 40]
    with torch.no_grad():
        wanted = (model(input_ids=torch.tensor([prompt])).logits[0, -1].float() / 2.0).softmax(-1)
    draws = drawn(model, [prompt] * 4_000, most_tokens=1, temperature=2.0)
    counts = Counter(each.completion.reply_ids[0] for each in draws)
    rare = wanted.argsort(descending=True)[50:].tolist()
    assert sum(counts[token] for token in rare) / 4_000 == pytest.approx(float(wanted[rare].sum()), abs=0.03)
    likeliest = int(wanted.argmax())
    assert counts[likeliest] / 4_000 == pytest.approx(float(wanted[likeliest]), abs=0.03)


def test_a_reply_ends_with_its_turn_and_the_others_go_on(model: Any) -> None:
    found = drawn(model, [[5, 9, 40]] * 64, most_tokens=20, temperature=2.0)
    for each in found:
        assert each.ended == (each.completion.reply_ids[-1] == EOS_ID)
        assert EOS_ID not in each.completion.reply_ids[:-1]
        assert len(each.log_probabilities) == len(each.completion.reply_ids) <= 20
        assert isinstance(each.completion, Completion)
    assert {each.ended for each in found} == {True, False}


PROMPT = [5, 9, 40]
GOOD = {
    "token_ids": [7, EOS_ID],
    "logprobs": {"token_logprobs": [-1.5, -0.5]},
    "prompt_token_ids": PROMPT,
    "finish_reason": "stop",
}


class FaultyServer(Server):
    """Answers what a test tells it to."""

    def __init__(self, answer: Any = None, version: str = "0.32.0", status: int = 200) -> None:
        super().__init__()
        self.answer, self.version, self.status = answer or {"choices": [GOOD]}, version, status

    def respond(self, request: Any, path: str, query: dict[str, str], body: Any) -> None:
        if request.command == "GET":
            request.tell({"version": self.version})
        elif self.answer == "no JSON":
            request.send_response(200)
            request.end_headers()
            request.wfile.write(b"secretword")
        else:
            request.tell(self.answer, self.status if path == "/v1/completions" else 200)

    def asked(self, wanted: str) -> list[Any]:
        return [body for _, path, body in self.seen if path == f"/v1/{wanted}"]


MakeServer = Callable[..., FaultyServer]
MakeJob = Callable[..., TrainingJob]


@pytest.fixture
def serve() -> Iterator[MakeServer]:
    with ExitStack() as running:
        yield lambda *given, **options: running.enter_context(FaultyServer(*given, **options).serving())


def sampler(server: FaultyServer, copies: Path, weights: Callable[[], bytes] = lambda: b"weights") -> VllmSampler:
    def write(directory: Path) -> None:
        directory.mkdir(parents=True)
        (directory / "adapter_config.json").write_text("{}")
        (directory / "adapter_model.safetensors").write_bytes(weights())

    return VllmSampler(Rollouts(url=server.address, copies=copies), "0123" * 16, write)


def sampled(sampler_: VllmSampler, prompts: int = 1) -> Any:
    return sampler_.sample([PROMPT] * prompts, [EOS_ID], most_tokens=4, temperature=0.7, seed=3)


def test_a_server_is_asked_for_the_models_own_distribution_with_ids_and_seeds(
    serve: MakeServer, tmp_path: Path
) -> None:
    server = serve()
    engine = sampler(server, tmp_path)
    (first, _) = sampled(engine, prompts=2)
    assert first.completion.reply_ids == [7, EOS_ID] and first.log_probabilities == [-1.5, -0.5] and first.ended
    asked = server.asked("completions")
    for body in asked:
        assert (body["prompt"], body["temperature"], body["max_tokens"]) == (PROMPT, 0.7, 4)
        assert (body["top_k"], body["top_p"], body["min_p"], body["stop_token_ids"]) == (-1, 1.0, 0.0, [EOS_ID])
    assert len({body["seed"] for body in asked}) == 2


def test_another_policy_is_another_adapter_and_nothing_is_left_behind(serve: MakeServer, tmp_path: Path) -> None:
    server = serve()
    weights = [b"first"]
    (tmp_path / f"rollouts-{'0123' * 4}" / "of a run that was killed").mkdir(parents=True)
    engine = sampler(server, tmp_path, lambda: weights[0])
    for each in (b"first", b"first", b"second"):
        weights[0] = each
        sampled(engine)
    loads = server.asked("load_lora_adapter")
    assert len({body["lora_name"] for body in loads}) == len(loads) == 2
    assert not Path(loads[0]["lora_path"]).exists() and Path(loads[1]["lora_path"]).is_dir()
    engine.close()
    assert [*tmp_path.iterdir()] == []
    assert server.asked("unload_lora_adapter")[-1] == {"lora_name": loads[1]["lora_name"]}


OTHER_FORMS: dict[str, dict[str, Any]] = {
    "cut": {"token_ids": [7]},
    "nothing": {"token_ids": [], "logprobs": {"token_logprobs": []}},
    "too long": {"token_ids": [7, 8, 9, 10, EOS_ID], "logprobs": {"token_logprobs": [-1.0] * 5}},
    "texts": {"token_ids": ["7", EOS_ID]},
    "no logs": {"logprobs": None},
    "a missing log": {"logprobs": {"token_logprobs": [None, -0.5]}},
    "nan": {"logprobs": {"token_logprobs": [float("nan"), -0.5]}},
    "another prompt": {"prompt_token_ids": [1, *PROMPT]},
    "no end": {"finish_reason": "length"},
    "another end": {"token_ids": [7, 8]},
    "past its end": {"token_ids": [EOS_ID, EOS_ID]},
}


def test_an_answer_in_another_form_stops_the_training(serve: MakeServer, tmp_path: Path) -> None:
    server = serve()
    for form, choice in OTHER_FORMS.items():
        server.answer = {"choices": [{**GOOD, **choice}]}
        with pytest.raises(TrainingFailed, match=r"token ids or log-probabilities|a reply ends neither"):
            sampled(sampler(server, tmp_path))
            pytest.fail(form)


def test_a_server_that_fails_or_is_not_there_stops_the_training_and_quotes_nothing(
    serve: MakeServer, tmp_path: Path
) -> None:
    with pytest.raises(TrainingFailed, match="answers /v1/completions with status 500") as failed:
        sampled(sampler(serve({"error": "secretword"}, status=500), tmp_path))
    assert "secretword" not in str(failed.value)
    with pytest.raises(TrainingFailed, match="answer is not JSON"):
        sampled(sampler(serve("no JSON"), tmp_path))
    with pytest.raises(TrainingFailed, match=r"the version is 0\.31\.2"):
        sampler(serve(version="0.31.2"), tmp_path)
    with pytest.raises(TrainingFailed, match="the server does not answer"):
        VllmSampler(Rollouts(url=f"http://127.0.0.1:{free_port()}", copies=tmp_path), "0123", lambda directory: None)


@pytest.mark.security_case(
    "Another account can change the adapters for rollouts, or replace them by a link",
    "nothing is sampled, and nothing behind the link is removed or made accessible",
)
@pytest.mark.parametrize("mode", [0o702, 0o720], ids=["everyone", "the group"])
def test_a_directory_that_others_can_change_is_refused(
    serve: MakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    home, copies = tmp_path / "home", tmp_path / "copies"
    (home / "next").mkdir(parents=True, mode=0o700)
    copies.mkdir()
    (copies / f"rollouts-{'0123' * 4}").symlink_to(home)
    home.chmod(0o700)
    copies.chmod(mode)
    with pytest.raises(TrainingFailed, match="another account can write to"):
        sampled(sampler(serve(), copies))
    assert (home / "next").is_dir() and home.stat().st_mode & 0o777 == 0o700
    copies.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: copies.stat().st_uid + 1)
    with pytest.raises(TrainingFailed, match="another account can write to"):
        sampler(serve(), copies)


def test_an_adapter_is_the_groups_to_read_and_nobody_elses(serve: MakeServer, tmp_path: Path) -> None:
    """Not while it is written either."""
    tmp_path.chmod(0o755)
    own, modes = tmp_path / f"rollouts-{'0123' * 4}", list[int]()

    def weights() -> bytes:
        modes.append(own.stat().st_mode & 0o777)
        return b"weights"

    engine = sampler(serve(), tmp_path, weights)
    sampled(engine)
    assert modes == [0o700]
    assert {each.stat().st_mode & 0o777 for each in (own, *own.rglob("*"))} == {0o750, 0o640}
    engine.close()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with heads of 32, which vLLM computes on a processor too."""
    texts = [json.dumps(row) for row in letters(40)]
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", texts, heads=2)


@pytest.fixture(scope="module")
def after_sft(tmp_path_factory: pytest.TempPathFactory, make_session_job: MakeJob, base: Path) -> Path:
    job = make_session_job(tmp_path_factory.mktemp("parent"), "sft", letters(16), sft={"epochs": 3})
    job = job.model_copy(update={"base_model": base})
    run(job)
    return job.output / "adapter"


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Iterator[str]:
    """The address of a vLLM server with the tiny model."""
    directory = tmp_path_factory.mktemp("vllm")
    port = free_port()
    options = {
        "model": base, "served-model-name": "base", "host": "127.0.0.1", "port": port, "dtype": "float32",
        "max-model-len": 128, "max-num-seqs": 16, "max-num-batched-tokens": 512, "max-loras": 2, "max-cpu-loras": 2,
        "max-lora-rank": 8, "generation-config": "vllm", "logprobs-mode": "processed_logprobs",
    }  # fmt: skip
    command = [os.environ[VLLM_PYTHON], "-m", "vllm.entrypoints.openai.api_server", "--enable-lora"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    environment = {
        **OFFLINE_ENVIRONMENT, "PATH": os.environ["PATH"], "HOME": str(directory), "OMP_NUM_THREADS": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_HOST_IP": "127.0.0.1",
    }  # fmt: skip
    with (directory / "log").open("wb") as noted:
        process = subprocess.Popen(
            command, env=environment, cwd="/", stdout=noted, stderr=noted, start_new_session=True
        )
    try:
        wait_until(lambda: _answers(port) or process.poll() is not None, lambda: "vLLM did not start")
        assert process.poll() is None, (directory / "log").read_text()[-3000:]
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(SECONDS)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.vllm
def test_a_policy_learns_from_rollouts_of_vllm(
    vllm: str, make_job: MakeJob, after_sft: Path, base: Path, tmp_path: Path
) -> None:
    copies = tmp_path / "copies"
    copies.mkdir(mode=0o750)
    job = reward_job(
        make_job, "learned", after_sft, {"rollouts": {"url": vllm, "copies": str(copies)}}, base_model=base
    )
    learn(job)
    report = json.loads((job.output / "rlhf.json").read_text())
    assert report["sampler"].startswith("vLLM 0.") and report["gold_of_best"] > report["gold_of_parent"]
    assert all(row["sampler_gap"] < 1e-3 for row in log(job))
    assert [*copies.iterdir()] == []
