"""Modelfiles: what ollama needs to know about a GGUF file, in its own words."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiara_cli.core.export import gguf_tokenizer, modelfile
from kiara_cli.core.tokenizer.bpe import BPETokenizer

AROUND = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
REPLY = "{% if add_generation_prompt %}<assistant>{% endif %}"


def described(tokenizer: BPETokenizer, conversations: bool = True) -> gguf_tokenizer.Vocabulary:
    return gguf_tokenizer.describe(tokenizer, tokenizer.size, conversations)


def test_kiaras_conversations_and_plain_models_are_described(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    modelfile.write(tmp_path / "a b.gguf", described(tokenizer), 48)
    assert (tmp_path / "Modelfile").read_text(encoding="utf-8") == (
        "FROM ./a b.gguf\n"
        'TEMPLATE """{{ range .Messages }}'
        '{{ if eq .Role "user" }}<|im_start|>user<|im_sep|>{{ .Content }}<|im_end|>{{ end }}'
        '{{ if eq .Role "assistant" }}<|im_start|>assistant<|im_sep|>{{ .Content }}<|im_end|>{{ end }}'
        '{{ if eq .Role "system" }}<|im_start|>system<|im_sep|>{{ .Content }}<|im_end|>{{ end }}'
        '{{ end }}<|im_start|>assistant<|im_sep|>"""\n'
        'PARAMETER stop "<|im_end|>"\nPARAMETER stop "<|endoftext|>"\nPARAMETER num_ctx 48\n'
    )
    modelfile.write(tmp_path / "plain.gguf", described(tokenizer, conversations=False), 48)
    plain = (tmp_path / "plain.Modelfile").read_text(encoding="utf-8")  # another's is not written over
    assert (
        plain
        == 'FROM ./plain.gguf\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER stop "<|endoftext|>"\nPARAMETER num_ctx 48\n'
    )
    modelfile.write(tmp_path / "a b.gguf", described(tokenizer), 99)
    assert "num_ctx 99" in (tmp_path / "Modelfile").read_text(encoding="utf-8")
    run, create = modelfile.commands(tmp_path / "a b.gguf")
    assert run == f"llama-cli -m '{tmp_path}/a b.gguf'"
    assert create == f"ollama create a-b -f {tmp_path}/Modelfile && ollama run a-b"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (AROUND + REPLY, "{{ if eq .Role \"user\" }}<user>{{ .Content }}</user>{{ end }}"),
        ("{% if messages[0].role != 'system' %}<system>Hi</system>{% endif %}" + AROUND + REPLY,
         "{{ if ne (index .Messages 0).Role \"system\" }}<system>Hi</system>{{ end }}{{ range .Messages }}"),
        ("{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}|"
         "{% endfor %}", "{{ range .Messages }}{{ if eq .Role \"user\" }}{{ .Content }}|{{ end }}"),
        ("{{ messages[-1].content }}", None),
        ("{{ raise_exception('never') }}", None),
        ("{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}", None),
    ],
)  # fmt: skip
def test_a_template_is_translated_where_it_can_be(
    tokenizer: BPETokenizer, template: str, expected: str | None
) -> None:
    made = described(tokenizer, conversations=False)
    made.template = template
    found = modelfile.for_ollama(made)
    assert (found is None) == (expected is None)
    assert expected is None or expected in (found or "")
