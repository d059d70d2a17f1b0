"""Folders as hubs ship them: random weights in the shapes' real proportions, tokenizers with each family's settings.

In: a family's name. Out: config.json, model.safetensors, tokenizer.json, tokenizer_config.json and the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from kiara_cli.core.export.patterns import LLAMA3, QWEN2

LINES = [
    "The cat sat on the mat. It's a dog's life, we'll see 1234 things!\n\n  über 漢字 aaaaaaa bananas\r\n",
    "def f(x):\n    return x + 1  # naïve 🙂 emoji\n\tтекст по-русски, ελληνικά, עברית ١٢٣\n",
    " Once upon a time there was a little bird that could not sing; it hummed.\n",
] * 20
ALPHABET = pre_tokenizers.ByteLevel.alphabet()
CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3_CHAT = (
    "{{- bos_token }}{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + "
    "eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
    "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token}}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else "
    "message['role'] %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
SMALL = HEADS | {"hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 2}
LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32, "rope_theta": 500_000.0,
}  # fmt: skip


def trained(made: Tokenizer, special: list[str], size: int = 420, alphabet: Any = ALPHABET) -> Tokenizer:
    """Learn merges; special tokens come first."""
    wanted = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(LINES, wanted)
    return made


def byte_level(pre_tokenizer: Any, special: list[str], later: list[str], normalizer: Any = None) -> Tokenizer:
    """A byte-level BPE; `later`: special tokens after all others."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    trained(made, special)
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in later])
    return made


def split_by(pattern: str) -> Any:
    """Split by a pattern, then show bytes."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def sentencepiece(special: list[str], normalizer: Any, decoder: list[Any], pre_tokenizer: Any = None) -> Tokenizer:
    """A BPE over characters that falls back to bytes, as converted from SentencePiece."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizer
    # SentencePiece never joins words, so neither does the training; the file has another pre-tokenizer, or none
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    singles = [f"<0x{byte:02X}>" for byte in range(256)]
    trained(made, special + singles, 256 + 200, [])
    value = json.loads(made.to_str())
    value["added_tokens"] = [token for token in value["added_tokens"] if token["content"] in special]
    made = Tokenizer.from_str(json.dumps(value))
    made.pre_tokenizer = pre_tokenizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *decoder]
    made.decoder = decoders.Sequence(steps)
    return made


def begin_with(made: Tokenizer, token: str) -> Tokenizer:
    """Put a token before every text."""
    template = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, made.token_to_id(token))]
    )
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return made


def prepended() -> Any:
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def gpt2() -> tuple[Tokenizer, dict[str, Any], Any]:
    made = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), [], ["<|endoftext|>"])
    made.add_tokens(["<EOL>"])  # ordinary: matched in text
    end = made.token_to_id("<|endoftext|>")
    config = transformers.GPT2Config(
        vocab_size=made.get_vocab_size(), n_positions=128, n_embd=64, n_layer=2, n_head=4,
        bos_token_id=end, eos_token_id=end,
    )  # fmt: skip
    return made, {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False} | ends("<|endoftext|>"), config


def llama32() -> tuple[Tokenizer, dict[str, Any], Any]:
    marks = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    made = begin_with(byte_level(split_by(LLAMA3), [], marks), marks[0])
    made.model.ignore_merges = True
    first, *_, last = (made.token_to_id(mark) for mark in marks)
    config = transformers.LlamaConfig(
        **SMALL, head_dim=16, vocab_size=made.get_vocab_size(), tie_word_embeddings=True, rms_norm_eps=1e-5,
        rope_parameters=LLAMA3_ROPE, bos_token_id=first, eos_token_id=[first + 1, last],
    )  # fmt: skip
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": marks[0], "eos_token": marks[4]}
    return made, about | {"chat_template": LLAMA3_CHAT}, config


def smollm2() -> tuple[Tokenizer, dict[str, Any], Any]:
    splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
    made = byte_level(pre_tokenizers.Sequence(splits), special, [])
    config = transformers.LlamaConfig(
        **SMALL, vocab_size=made.get_vocab_size(), tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        pad_token_id=2, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 130_000.0},
    )  # fmt: skip
    about = {"tokenizer_class": "GPT2Tokenizer", "chat_template": CHATML, "additional_special_tokens": special[1:3]}
    return made, about | {"bos_token": special[1], "eos_token": special[2], "unk_token": special[0]}, config


def qwen25() -> tuple[Tokenizer, dict[str, Any], Any]:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = byte_level(split_by(QWEN2), [], special, normalizers.NFC())
    end, _, turn = (made.token_to_id(text) for text in special)
    config = transformers.Qwen2Config(
        **SMALL, vocab_size=made.get_vocab_size() + 20, tie_word_embeddings=True, sliding_window=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, bos_token_id=end, eos_token_id=turn,
    )  # fmt: skip
    about = {"tokenizer_class": "Qwen2Tokenizer", "chat_template": CHATML, "add_bos_token": False, "bos_token": None}
    about |= {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "additional_special_tokens": special[1:]}
    return made, about | {"generation": {"bos_token_id": end, "eos_token_id": [turn, end], "top_p": 0.8}}, config


def qwen3() -> tuple[Tokenizer, dict[str, Any], Any]:
    made, about, _ = qwen25()
    made.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("<think>", "</think>")])
    end, turn = made.token_to_id("<|endoftext|>"), made.token_to_id("<|im_end|>")
    config = transformers.Qwen3Config(
        **SMALL, head_dim=32, vocab_size=made.get_vocab_size() + 20, bos_token_id=end, eos_token_id=turn
    )
    return made, about | {"chat_template": CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")}, config


def tinyllama() -> tuple[Tokenizer, dict[str, Any], Any]:
    made = sentencepiece(["<unk>", "<s>", "</s>"], prepended(), [decoders.Strip(" ", 1, 0)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    config = transformers.LlamaConfig(**SMALL, vocab_size=made.get_vocab_size(), rms_norm_eps=1e-5)
    about = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "unk_token": "<unk>", "chat_template": ZEPHYR}
    return made, about | {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"}, config


def mistral() -> tuple[Tokenizer, dict[str, Any], Any]:
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    made = sentencepiece(special, prepended(), [decoders.Strip(" ", 1, 0)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    config = transformers.MistralConfig(**SMALL, head_dim=16, vocab_size=made.get_vocab_size(), sliding_window=128)
    about = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "unk_token": "<unk>", "chat_template": MISTRAL}
    return made, about | {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"}, config


def pythia() -> tuple[Tokenizer, dict[str, Any], Any]:
    special = ["<|endoftext|>", "<|padding|>"]
    made = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), special, [], normalizers.NFC())
    made.add_tokens([AddedToken(" " * length, normalized=True) for length in range(8, 1, -1)])
    config = transformers.GPTNeoXConfig(
        **HEADS, hidden_size=64, intermediate_size=256, vocab_size=made.get_vocab_size() + 3,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return made, {"tokenizer_class": "GPTNeoXTokenizer", "add_prefix_space": False} | ends("<|endoftext|>"), config


def gemma() -> tuple[Tokenizer, dict[str, Any], Any]:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    made = sentencepiece(
        special, normalizers.Replace(" ", "▁"), [], pre_tokenizers.Split(" ", "merged_with_previous")
    )
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    shape = SMALL | {"num_key_value_heads": 1, "head_dim": 32}
    config = transformers.GemmaConfig(**shape, vocab_size=made.get_vocab_size(), eos_token_id=[1, 6])
    about = {"tokenizer_class": "GemmaTokenizer", "chat_template": GEMMA, "unk_token": "<unk>", "pad_token": "<pad>"}
    return made, about | {"add_bos_token": True, "bos_token": "<bos>", "eos_token": "<eos>"}, config


def ends(token: str) -> dict[str, Any]:
    return {"bos_token": token, "eos_token": token, "unk_token": token}


FAMILIES: dict[str, Callable[[], tuple[Tokenizer, dict[str, Any], Any]]] = {
    "GPT-2": gpt2,
    "Llama 3.2": llama32,
    "SmolLM2": smollm2,
    "Qwen 2.5": qwen25,
    "Qwen 3": qwen3,
    "TinyLlama": tinyllama,
    "Mistral": mistral,
    "Pythia": pythia,
    "Gemma": gemma,
}


def write_folder(family: str, folder: Path, **options: Any) -> Path:
    """Write a folder; `options` go to `save_pretrained`."""
    tokenizer, about, config = FAMILIES[family]()
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder, **options)
    if "generation" in about:
        (folder / "generation_config.json").write_text(json.dumps(about.pop("generation")))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder
