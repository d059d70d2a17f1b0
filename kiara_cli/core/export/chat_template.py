"""Kiara's own conversations as a Jinja template, for transformers and llama.cpp.

In: the text of each special token. Out: a template that renders what `chat_format.encode_prompt` encodes. Like the
server it takes a developer for the system, tools for the user, lists of parts that are text, and null for no text.
"""

from __future__ import annotations

from collections.abc import Mapping

from kiara_cli.core.tokenizer.chat_format import END, ROLES
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT

SAME = {"developer": "system", "tool": "user", "function": "user"}
TEXTS = ["text", "input_text", "output_text"]


def chat_template(names: Mapping[str, str]) -> str:
    """Return the template. `names`: special token → its text, where that is another."""
    marks = {role: names.get(mark, mark) for role, mark in ROLES.items()}
    role = "{% set role = " + f"{SAME}.get(message['role'], message['role'])" + " %}"
    known = "{% if role not in " + f"{list(marks)}" + " %}{{ raise_exception('no such role: ' ~ role) }}{% endif %}"
    part = (
        "{% if part is string %}{{ part }}{% elif part['type'] == 'refusal' %}{{ part['refusal'] }}"
        "{% elif part['type'] in " + f"{TEXTS}" + " %}{{ part['text'] }}"
        "{% else %}{{ raise_exception('this model reads text alone') }}{% endif %}"
    )
    content = (
        "{% if message['content'] is string %}{{ message['content'] }}{% elif message['content'] %}"
        "{% for part in message['content'] %}" + part + "{% endfor %}{% endif %}"
    )
    opening, ending = f"{{{{ {marks}[role] }}}}", _text(names.get(END, END))
    start, reply = _text(names.get(END_OF_TEXT, END_OF_TEXT)), _text(marks["assistant"])
    messages = "{% for message in messages %}" + role + known + opening + content + ending + "{% endfor %}"
    return start + messages + "{% if add_generation_prompt %}" + reply + "{% endif %}"


def _text(text: str) -> str:
    return f"{{{{ {text!r} }}}}"
