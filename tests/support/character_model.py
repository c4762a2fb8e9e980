"""A tiny model with random weights that reads and writes single characters, of which there are some fifty.

Whatever it is asked, its replies are full of digits and letters, so that scores come out neither 0 nor 1.
"""

from __future__ import annotations

from pathlib import Path

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 \n#.,:?=+-*/()$"
CONTEXT = 1024
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}:{% endif %}"
)


def write_character_model(folder: Path, seed: int = 0) -> Path:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    written = bytes_to_unicode()
    words = ["<unk>", "<eos>", "<pad>", *(written[ord(character)] for character in CHARACTERS)]
    tokenizer = Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[],
        unk_token="<unk>",
        eos_token="<eos>",
        pad_token="<pad>",
        model_max_length=CONTEXT,
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    shape = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Qwen2ForCausalLM(shape).save_pretrained(folder)
    return folder
