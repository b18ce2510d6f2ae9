"""Sample replies from the policy, in the trainer or on a vLLM server of this machine.

Replies are sampled from the model's own distribution at a temperature, without top-k, top-p, minimum probability or
repetition penalty. With any of these, the log-probabilities at sampling would differ from those in the loss. Prompts
are padded on the left, so that the batch changes a reply only by rounding. The server's log-probabilities are compared
with the update's (`guards.check_sampler`). An adapter's name on the server is a digest of the adapter's bytes, so the
server does not reuse the cache of an earlier adapter.
"""

import http.client
import json
import math
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.policy.rlhf import Rollouts
from sovereign_pipeline.policy.serving import UNIX
from sovereign_pipeline.training.forward import in_evaluation_mode
from sovereign_pipeline.training.rows import Completion
from sovereign_pipeline.training.tuned_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS


@dataclass(frozen=True)
class Rollout:
    """A prompt with a sampled reply."""

    completion: Completion
    log_probabilities: list[float]
    """Log-probability of each token when it was sampled, in nats, at the sampling temperature."""
    ended: bool
    """True if the last token ends the turn."""


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    eos_ids: Sequence[int],
    *,
    most_tokens: int,
    temperature: float,
    seed: int | None,
) -> list[Rollout]:
    """Sample one reply to each prompt from the active adapter. Call this function within `TwoAdapters.running`. seed:
    seed of the random choices; None chooses the most likely token. The replies depend only on arguments and model."""
    import torch

    device = model.device
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    different = list(dict.fromkeys(map(tuple, prompts)))
    of_reply = torch.tensor([different.index(tuple(prompt)) for prompt in prompts], device=device)
    longest = max(map(len, different))
    missing = [longest - len(prompt) for prompt in different]
    ids = torch.tensor(
        [[eos_ids[0]] * pad + list(prompt) for pad, prompt in zip(missing, different, strict=True)], device=device
    )
    mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in missing], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    replies: list[list[int]] = [[] for _ in prompts]
    logs: list[list[float]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    past: Any = None
    with in_evaluation_mode(model):
        for place in range(most_tokens):
            out = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=past,
                use_cache=True,
                logits_to_keep=1,
            )
            past, logits = out.past_key_values, out.logits[:, -1]
            if place == 0 and len(different) < len(prompts):  # each distinct prompt went through the model once
                past.reorder_cache(of_reply)
                logits, mask, positions = logits[of_reply], mask[of_reply], positions[of_reply]
            # Draw on the CPU: its generator gives the same choices whatever device the model is on.
            all_logs = (logits.float() / temperature).log_softmax(-1).cpu()
            if generator is None:
                chosen = all_logs.argmax(-1)
            else:
                chosen = torch.multinomial(all_logs.exp(), 1, generator=generator).squeeze(1)
            taken = all_logs.gather(1, chosen.unsqueeze(1)).squeeze(1)
            for row, (token, log) in enumerate(zip(chosen.tolist(), taken.tolist(), strict=True)):
                if not ended[row]:
                    replies[row].append(token)
                    logs[row].append(log)
                    ended[row] = token in eos_ids
            if all(ended):
                break
            ids = chosen.unsqueeze(1).to(device)
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
            positions = positions[:, -1:] + 1
    rollouts = zip(prompts, replies, logs, ended, strict=True)
    return [Rollout(Completion(list(prompt), reply), log, end) for prompt, reply, log, end in rollouts]


OLDEST = (0, 32)
"""Oldest supported version of vLLM. Earlier versions may switch a running request to another adapter."""
VERSION, COMPLETIONS = "/version", "/v1/completions"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
LONGEST_ANSWER = 64 << 20
STARTED = (
    "Start vLLM with this base model, --enable-lora, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, --generation-config vllm and "
    "--logprobs-mode processed_logprobs: see 'Rollouts by vLLM' in docs/how-to/reward.md."
)


class VllmSampler:
    """Samples replies from the current policy on a vLLM server."""

    def __init__(self, rollouts: Rollouts, training: str, write_adapter: Callable[[Path], None]) -> None:
        """Connect to the server. training: identity of this job (`TrainingJob.identity`). write_adapter: function that
        writes the policy's adapter into a directory.

        Raises TrainingFailed if the server is unreachable or too old, or if the directory of adapter copies is missing
        or another account can write to it.
        """
        self._rollouts, self._write_adapter = rollouts, write_adapter
        self._salt = secrets.token_hex(16)
        self._loaded: str | None = None
        """Name of the adapter that the server has loaded."""
        self.version = self._told_version()
        try:
            found = rollouts.copies.stat()
        except OSError as error:
            raise self._failed(
                f"{rollouts.copies} cannot be read ({error.strerror})", "Create this directory."
            ) from None
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or found.st_uid != os.geteuid():
            raise self._failed(
                f"another account can write to {rollouts.copies}, and could redirect the trainer with a symbolic link",
                "Make the trainer's account the directory's owner, with read-only access for the group (chmod 750).",
            )
        self._group = found.st_gid
        self._own = rollouts.copies / f"rollouts-{training[:16]}"
        shutil.rmtree(self._own, ignore_errors=True)  # copies that a killed run of this training left behind

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        eos_ids: Sequence[int],
        *,
        most_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[Rollout]:
        """Sample one reply to each prompt from the current policy. Each reply's seed is derived from `seed` and the
        reply's position.

        Raises TrainingFailed if the server does not answer or rejects a request, or if an answer does not match the
        request. The message quotes no text of prompts or replies.
        """
        name = self._load_policy()

        def one(place: int) -> Rollout:
            prompt = list(prompts[place])
            body = {
                "model": name,
                "prompt": prompt,
                "max_tokens": most_tokens,
                "temperature": temperature,
                "top_p": 1.0,
                "top_k": -1,
                "min_p": 0.0,
                "seed": int.from_bytes(sha256(f"{seed}/{place}".encode()).digest()[:4]) >> 1,
                "logprobs": 1,
                "return_token_ids": True,
                "stop_token_ids": list(eos_ids),
                "cache_salt": self._salt,
            }
            return self._rollout(self._json(self._ask("POST", COMPLETIONS, body)), prompt, eos_ids, most_tokens)

        with ThreadPoolExecutor(self._rollouts.at_once) as pool:
            return list(pool.map(one, range(len(prompts))))

    def close(self) -> None:
        """Unload the adapter from the server, if the server answers, and remove the adapter's copy."""
        with suppress(TrainingFailed):  # the training's own result matters, not this error
            self._unload()
        shutil.rmtree(self._own, ignore_errors=True)

    def _load_policy(self) -> str:
        written = self._own / "next"
        shutil.rmtree(written, ignore_errors=True)
        self._own.mkdir(mode=0o700, exist_ok=True)  # other accounts may read only complete files
        self._write_adapter(written)
        digests = [file_sha256(written / each) for each in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
        name = f"rollouts-{sha256(''.join(digests).encode()).hexdigest()[:32]}"
        if name == self._loaded:
            return name
        self._unload()
        directory = self._own / name
        written.rename(directory)
        self._open_to_group(directory)
        self._ask("POST", UNLOAD, {"lora_name": name}, fine=(200, 404))  # a killed training may have left it loaded
        self._ask("POST", LOAD, {"lora_name": name, "lora_path": str(directory)})
        self._loaded = name
        return name

    def _unload(self) -> None:
        if self._loaded is not None:
            name, self._loaded = self._loaded, None
            self._ask("POST", UNLOAD, {"lora_name": name}, fine=(200, 404))
            shutil.rmtree(self._own / name, ignore_errors=True)

    def _open_to_group(self, directory: Path) -> None:
        for path in (self._own, directory, *directory.iterdir()):
            os.chown(path, -1, self._group)
            path.chmod(0o750 if path.is_dir() else 0o640)

    def _rollout(self, answer: Any, prompt: list[int], eos_ids: Sequence[int], most_tokens: int) -> Rollout:
        try:
            (choice,) = answer["choices"]
            ids, logs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            asked, reason = choice["prompt_token_ids"], choice["finish_reason"]
            is_whole = (
                asked == prompt
                and 1 <= len(ids) == len(logs) <= most_tokens
                and all(type(each) is int for each in ids)
                and all(math.isfinite(each) for each in logs)
            )
        except (KeyError, TypeError, ValueError):
            is_whole = False
        if not is_whole:
            raise self._failed(
                "token ids or log-probabilities in the server's answer are missing, invalid or not the request's",
                STARTED,
            )
        ended = ids[-1] in eos_ids
        if ended != (reason == "stop") or any(each in eos_ids for each in ids[:-1]):
            raise self._failed("a reply ends neither with an end of turn nor at max_new_tokens", STARTED)
        return Rollout(Completion(prompt, ids), [float(each) for each in logs], ended)

    def _told_version(self) -> str:
        told = self._json(self._ask("GET", VERSION))
        version = str(told.get("version", "")) if isinstance(told, dict) else ""
        if tuple(int(each) for each in re.findall(r"\d+", version)[:2]) < OLDEST:
            raise self._failed(f"the version is {version[:20] or 'unknown'}", "Install vLLM 0.32 or later.")
        return version[:20]

    def _json(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise self._failed("the server's answer is not JSON", STARTED) from None

    def _ask(self, method: str, path: str, body: Any = None, fine: Sequence[int] = (200,)) -> bytes:
        connection = self._connection()
        try:
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, answer = response.status, response.read(LONGEST_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise self._failed(f"the server does not answer ({type(error).__name__})", STARTED) from None
        finally:
            connection.close()
        if status not in fine:
            raise self._failed(f"the server answers {path} with status {status}", STARTED)
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        seconds = self._rollouts.seconds
        if self._rollouts.url.startswith(UNIX):
            return _UnixConnection(self._rollouts.url.removeprefix(UNIX), seconds)
        parts = urlsplit(self._rollouts.url)
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)

    def _failed(self, what: str, hint: str) -> TrainingFailed:
        return TrainingFailed(f"training.rlhf.rollouts, the vLLM server at {self._rollouts.url}: {what}.", hint)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("vllm", timeout=seconds)
        self._path, self._seconds = path, seconds

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._seconds)
        self.sock.connect(self._path)
