"""An ordinary model directory with random weights in bfloat16, its tokenizer, and rows of invented words.

    python random_model.py --shape 8b --out DIR --rows FILE --count N

The rows' lengths are spread as letters' are: log-normal, median 180 tokens, 24 to 1,000 of them, a third of each the
prompt. Writes `counts.json` into DIR.
"""

import argparse
import json
import math
import random
from pathlib import Path
from typing import Any

from shapes import SHAPES, config_of, weights_in_head, weights_in_layers

WORDS = 1000
SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|unknown|>", "user", "assistant")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|> ' + message['role'] + ' ' + message['content'] + ' <|im_end|> ' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|> assistant ' }}{% endif %}"
)
LONGEST_TINY = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()
    tokenizer = tokenizer_of_words()
    save_random_weights(arguments.shape, arguments.out, tokenizer)
    tokenizer.save_pretrained(arguments.out)
    longest = LONGEST_TINY if arguments.shape == "tiny" else 1000
    rows = list(invented_rows(arguments.count, longest))
    arguments.rows.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    counts = {"tokens": 0, "supervised_tokens": 0}
    for row in rows:
        asked = [{"role": "user", "content": f"{row['instruction']}\n\n{row['input']}"}]
        answered = [*asked, {"role": "assistant", "content": row["output"]}]
        whole = len(tokenizer.apply_chat_template(answered, return_dict=False))
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        counts["tokens"] += whole
        counts["supervised_tokens"] += whole - len(prompt)
    weights = {
        "weights_in_layers": weights_in_layers(arguments.shape),
        "weights_in_head": weights_in_head(arguments.shape),
    }
    text = json.dumps({"shape": SHAPES[arguments.shape], **weights, "rows": len(rows), **counts})
    (arguments.out / "counts.json").write_text(text, encoding="utf-8")


def tokenizer_of_words() -> Any:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *(f"w{number}" for number in range(WORDS))))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL[:4]])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        unk_token="<|unknown|>",
        chat_template=TEMPLATE,
    )


def save_random_weights(shape: str, directory: Path, tokenizer: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config_of(shape), dtype=torch.bfloat16)
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
        config.bos_token_id = None
    model.save_pretrained(directory)


def invented_rows(count: int, longest: int) -> Any:
    rng = random.Random(1)
    for number in range(count):
        length = min(longest, max(24, round(rng.lognormvariate(math.log(180), 0.7))))
        words = [f"w{min(int(rng.paretovariate(0.6)), WORDS - 1)}" for _ in range(length)]
        asked = length // 3
        yield {
            "id": f"row-{number}",
            "instruction": "w1",
            "input": " ".join(words[:asked]),
            "output": " ".join(words[asked:]),
        }


if __name__ == "__main__":
    main()
