"""What adapters lose on held-out rows, row by row, the same way for whichever side made them: no batch, no packing.

    python held_out.py --model DIR --rows FILE --answer FILE [--reference ADAPTER --beta B] NAME=ADAPTER …

For rows of prompt and reply: the sum of the negative log likelihood over the reply's tokens, its end of turn included,
and their number. For pairs: the DPO loss (Rafailov et al. 2023, equation 7) against the adapter --reference, and 1.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from task import read_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--answer", type=Path, required=True)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--beta", type=float)
    parser.add_argument("adapters", nargs="+")
    arguments = parser.parse_args()
    import torch

    adapters = {name: Path(path) for name, path in (each.split("=", 1) for each in arguments.adapters)}
    rows = read_rows(arguments.rows)
    losses: dict[str, list[tuple[float, int]]] = {}
    with torch.no_grad():
        if arguments.reference is None:
            scored = Scored(arguments.model, next(iter(adapters.values())))
            with scored.model.disable_adapter():
                losses["base"] = scored.replies(rows)
            for name, path in adapters.items():
                scored.use(path)
                losses[name] = scored.replies(rows)
        else:
            scored = Scored(arguments.model, arguments.reference)
            reference = scored.margins(rows)
            for name, path in adapters.items():
                scored.use(path)
                moved = torch.tensor(scored.margins(rows)) - torch.tensor(reference)
                pair_losses = torch.nn.functional.softplus(-arguments.beta * moved)
                losses[name] = [(float(loss), 1) for loss in pair_losses]
    arguments.answer.write_text(json.dumps(losses), encoding="utf-8")


class Scored:
    """The base in float32 with one adapter at a time."""

    def __init__(self, model: Path, adapter: Path) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.model: Any = PeftModel.from_pretrained(base, adapter, adapter_name=_name_of(adapter)).eval()

    def use(self, adapter: Path) -> None:
        name = _name_of(adapter)
        if name not in self.model.peft_config:
            self.model.load_adapter(adapter, adapter_name=name)
        self.model.set_adapter(name)

    def replies(self, rows: list[dict[str, Any]]) -> list[tuple[float, int]]:
        return [self.negative_log_likelihood(f"{row['instruction']}\n\n{row['input']}", row["output"]) for row in rows]

    def margins(self, rows: list[dict[str, Any]]) -> list[float]:
        """Log likelihood of the chosen reply less that of the rejected one."""
        return [
            self.negative_log_likelihood(row["prompt"], row["rejected"])[0]
            - self.negative_log_likelihood(row["prompt"], row["chosen"])[0]
            for row in rows
        ]

    def negative_log_likelihood(self, prompt: str, reply: str) -> tuple[float, int]:
        import torch

        asked = [{"role": "user", "content": prompt}]
        answered = [*asked, {"role": "assistant", "content": reply}]
        prompt_ids = self.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        ids = self.tokenizer.apply_chat_template(answered, return_dict=False)
        end = max(place for place, token in enumerate(ids) if token == self.tokenizer.eos_token_id)
        targets = torch.tensor(ids[len(prompt_ids) : end + 1])
        known = torch.tensor([ids[:end]])
        logits = self.model(input_ids=known, use_cache=False, logits_to_keep=len(targets)).logits[0]
        return float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum")), len(targets)


def _name_of(adapter: Path) -> str:
    return str(adapter).replace(".", "_")  # torch does not allow a dot in the name of a module


if __name__ == "__main__":
    main()
