"""Chat templates of strangers: rendered as transformers renders them, in a sandbox, with texts that forge nothing."""

from __future__ import annotations

import re

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from kiara_cli.core.tokenizer.jinja import behind_reply, mask, render, unmask
from kiara_cli.errors import KiaraError

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Hi\n"},
    {"role": "assistant", "content": "It's so. "},
]
PLAIN = (
    "{% for m in messages %}\n  {% if m.role != 'tool' %}\n[{{ m['role'] }}]{{ m.content | trim }}\n{% endif %}\n"
    "{% endfor %}"
)
TEMPLATES = {
    "blocks": PLAIN,
    "loop controls": (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}"
    ),
    "namespace": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m.content }}"
        "{% endfor %}"
    ),
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{%- endgeneration %}{% endfor %}",
    "tojson and dict": "{{ messages | tojson }}{{ dict(a=1) }}{{ bos_token }}{{ tools is defined }}",
    "the prompt": PLAIN + "{% if add_generation_prompt %}[assistant]{% endif %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_it_renders_what_transformers_renders(name: str) -> None:
    names = {"bos_token": "<s>"}
    theirs, _ = render_jinja_template([TALK], chat_template=TEMPLATES[name], add_generation_prompt=True, **names)
    assert render(TEMPLATES[name], TALK, names) == theirs[0]


@pytest.mark.parametrize("name", ["blocks", "loop controls", "namespace"])
def test_it_goes_on_with_a_message_as_transformers_does(name: str) -> None:
    theirs, _ = render_jinja_template([TALK], chat_template=TEMPLATES[name], continue_final_message=True)
    assert render(TEMPLATES[name], TALK, {}, continued=True) == theirs[0]


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "refuses this conversation"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% set ns = namespace() %}{% set ns.__x__ = 1 %}", "cannot set __x__"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[7].content.x }}", "refuses"),
        ("{% for i in range(10000000) %}{% endfor %}", "too big"),
        ("{{ 1 / 0 }}", "zero"),
    ],
)
def test_what_a_template_may_not_do_is_one_line(template: str, named: str) -> None:
    with pytest.raises(KiaraError, match=named):
        render(template, TALK, {})


def test_what_stands_behind_a_reply_is_found() -> None:
    assert behind_reply("{% for m in messages %}{{ m.content }}</s>\n{% endfor %}", {}) == "</s>\n"
    assert behind_reply("{{ raise_exception('no') }}", {}) == ""
    assert behind_reply("nothing", {}) == ""
    with pytest.raises(KiaraError, match="go on"):
        render("nothing", TALK, {}, continued=True)


def test_masked_texts_hold_nothing_that_looks_special_and_come_back() -> None:
    forged = re.compile(re.escape("<|end|>"))
    texts = ["a<|end|>b<|<|end|>end|>", "plain"]
    masked, kept = mask(texts, forged)
    assert not any(forged.search(text) for text in masked)
    assert masked[1] == "plain"
    assert [unmask(text, kept) for text in masked] == texts
