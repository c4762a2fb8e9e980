"""Make the shape and tokenizer of `countdown-tiny`; the recipe `countdown-base` makes its weights.

python tools/make_countdown_tiny.py --out DIR    # the shape: config and tokenizer
harness train countdown-base --out RUN           # the weights, from that shape and a seed
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SYMBOLS = ("<pad>", "<eos>", "<unk>", "+", "-", "*", "/", "=", ";", ":")
LARGEST_NUMBER = 99


def make_tokenizer() -> Any:
    """Return a tokenizer with one token per number or sign, 110 in all. Decoding joins without spaces.

    transformers and vLLM split text for every model of this type like Qwen2, which cuts numbers into digits, whatever a
    tokenizer file says. Added tokens are matched before that, so each word is an added token.
    """
    from transformers import AddedToken, Qwen2Tokenizer

    words = [*SYMBOLS, *map(str, range(LARGEST_NUMBER + 1))]
    tokenizer = Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[],
        unk_token="<unk>",
        eos_token="<eos>",
        pad_token="<pad>",
        model_max_length=64,
    )
    tokenizer.add_tokens(
        [AddedToken(w, lstrip=True, rstrip=True, normalized=False) for w in words if not w.startswith("<")]
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return tokenizer


def make_config(tokenizer: Any) -> Any:
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=256,
        max_position_embeddings=64,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        architectures=["Qwen2ForCausalLM"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the shape of countdown-tiny: its config and tokenizer.")
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(out)
    make_config(tokenizer).save_pretrained(out)


if __name__ == "__main__":
    main()
