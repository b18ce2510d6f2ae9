"""What an adapter's replies to unseen prompts are worth, and how far it is from its parent, the same way for every arm.

    python held_out.py --prepared DIR --adapter DIR --answer FILE

Rewards are of the most likely replies. The divergence is the sum over a sampled reply's tokens of the exact divergence
of the two next-token distributions at the sampling temperature, in nats. All in float32. Started by `run.py`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.rlhf.jobs import rewards_of
from benchmarks.rlhf.task import Prepared
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.policy.rlhf import Rlhf
from sovereign_pipeline.training.rlhf.prompts import read_prompts
from sovereign_pipeline.training.rlhf.sampling import Rollout, sample

PARENT, ADAPTER = "default", "adapter"
SEED = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--prepared", "--adapter", "--answer"):
        parser.add_argument(name, type=Path, required=True)
    arguments = parser.parse_args()
    go_offline()
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prepared = Prepared(arguments.prepared)
    facts = prepared.facts
    rlhf = Rlhf.model_validate(facts["rlhf"])
    tokenizer = AutoTokenizer.from_pretrained(facts["model"])
    room = facts["sft"]["max_length"] - rlhf.max_new_tokens
    prompts, _ = read_prompts(prepared.judged, tokenizer, facts["eos_ids"], room)
    base = AutoModelForCausalLM.from_pretrained(facts["model"], dtype=torch.float32)
    model = PeftModel.from_pretrained(base, facts["parent"], adapter_name=PARENT)
    model.load_adapter(arguments.adapter, adapter_name=ADAPTER)
    model.set_adapter(ADAPTER)
    model.eval()
    likely: list[Rollout] = []
    sampled: list[Rollout] = []
    for number, start in enumerate(range(0, len(prompts), rlhf.prompts)):
        asked = [prompt.ids for prompt in prompts[start : start + rlhf.prompts]]
        for replies, seed in ((likely, None), (sampled, SEED + number)):
            replies += sample(
                model,
                asked,
                facts["eos_ids"],
                most_tokens=rlhf.max_new_tokens,
                temperature=rlhf.temperature,
                seed=seed,
            )
    written = [each.completion.reply_ids for each in likely]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
    rewards = rewards_of(prepared, arguments.answer.with_name("rewards"))
    answers = zip(prompts, texts, written, strict=True)
    scores = rewards.judge([prompt.answered(text, ids) for prompt, text, ids in answers])
    result = {
        "prompts": {
            prompt.row.id: {"case": prompt.row.case, "reward": score.total, "parts": dict(score.parts)}
            for prompt, score in zip(prompts, scores, strict=True)
        },
        "divergence": fmean(divergences(model, sampled, rlhf.temperature)),
        "reply_tokens": fmean(len(each.completion.reply_ids) for each in likely),
    }
    arguments.answer.write_text(json.dumps(result), encoding="utf-8")


def divergences(model: Any, rollouts: Sequence[Rollout], temperature: float) -> list[float]:
    import torch

    found = []
    for rollout in rollouts:
        replied = len(rollout.completion.reply_ids)
        ids = torch.tensor([rollout.completion.ids[:-1]])
        logs = {}
        with torch.no_grad():
            for name in (ADAPTER, PARENT):
                model.set_adapter(name)
                logits = model(input_ids=ids, use_cache=False, logits_to_keep=replied).logits[0]
                logs[name] = (logits.float() / temperature).log_softmax(-1)
        found.append(float((logs[ADAPTER].exp() * (logs[ADAPTER] - logs[PARENT])).sum()))
    return found


if __name__ == "__main__":
    main()
