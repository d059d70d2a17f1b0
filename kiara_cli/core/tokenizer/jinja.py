"""Chat templates that came in with a model: Jinja, rendered in a sandbox with what transformers gives a template.

In: a template, messages, the names of special tokens. Out: the text of the conversation. A template is code of
strangers: jinja2's immutable sandbox keeps it from Python and from the file system.
"""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.errors import KiaraError

# what a template marks as said by the assistant, which concerns training alone
_GENERATION = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")
_MARK = re.compile(r"<<[^<>\s]{1,40}>>|<[^<>\s]{1,40}>|\[[^\[\]\s]{1,40}\]|#{2,}")


def render(
    template: str,
    messages: Sequence[Message],
    names: Mapping[str, str],
    continued: bool = False,
    reply: bool = True,
) -> str:
    """Write a conversation as its template says, up to where the assistant replies, or goes on with `continued`.

    Without `reply` it is not asked for one. Raises KiaraError where the template cannot be rendered, or refuses the
    conversation.
    """
    from jinja2 import TemplateError

    told = [dict(message) for message in messages]
    end = secrets.token_hex(8)
    if continued:
        told[-1]["content"] += end + " "
    try:
        given = {"messages": told, "tools": None, "documents": None, "add_generation_prompt": reply and not continued}
        text: str = _compiled(template).render(given | dict(names))
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
        raise KiaraError(
            f"the model's own chat template refuses this conversation: {str(error).rstrip('.')}",
            "say it otherwise: some templates take no system message, or want user and assistant in turn",
        ) from None
    if not continued:
        return text
    if end not in text:
        raise KiaraError("the model's own chat template cannot go on with a message", "ask for a reply instead")
    before, _, after = text.rpartition(end)
    return before if after.startswith(" ") else before.rstrip()  # the template trims what is said


def marks(text: str) -> set[str]:
    """Return what looks like a mark of a turn: <|user|>, [INST], <<SYS>>, ###."""
    return set(_MARK.findall(text))


def around_messages(template: str, names: Mapping[str, str]) -> list[str]:
    """Return what a template writes before, between and behind messages, with a system message and without."""
    pieces: list[str] = []
    for order in (("system", "user", "assistant", "user"), ("user", "assistant", "user")):
        said = [{"role": role, "content": secrets.token_hex(8)} for role in order]
        try:
            written = render(template, said, names)
        except KiaraError:  # some refuse a system message
            continue
        pieces += re.split("|".join(message["content"] for message in said), written)
    return pieces


def behind_reply(template: str, names: Mapping[str, str]) -> str:
    """Return what a template writes behind what the assistant says; "" if that cannot be told."""
    said = secrets.token_hex(8)
    try:
        written = render(template, [{"role": "user", "content": "x"}, {"role": "assistant", "content": said}], names)
    except KiaraError:
        return ""
    return written.partition(said)[2]


def mask(contents: Sequence[str], forged: re.Pattern[str]) -> tuple[list[str], dict[str, str]]:
    """Replace what looks like a special token in texts by keys that nobody can guess."""
    kept: dict[str, str] = {}

    def replace(found: re.Match[str]) -> str:
        key = f"\ue000{secrets.token_hex(8)}\ue001"
        kept[key] = found[0]
        return key

    return [forged.sub(replace, content) for content in contents], kept


def unmask(text: str, kept: Mapping[str, str]) -> str:
    """Undo `mask`."""
    for key, original in kept.items():
        text = text.replace(key, original)
    return text


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    """Compile a template with the functions that transformers gives one."""
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    class Namespace(jinja2.utils.Namespace):
        def __init__(*args: Any, **named: Any) -> None:  # without `self`, which may be a name
            attributes = dict(*args[1:], **named)
            for name in attributes:
                check(name)
            jinja2.utils.Namespace.__init__(args[0], attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            check(name)
            super().__setitem__(name, value)

    def check(name: Any) -> None:
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a template cannot set {name}")

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.globals["dict"] = lambda *values, **named: dict(*values, **named)
    environment.globals["namespace"] = Namespace
    return environment.from_string(_GENERATION.sub(_as_condition, template))


def _as_condition(found: re.Match[str]) -> str:
    return f"{{%{found[1]} {'endif' if found[2] else 'if true'} {found[3]}%}}"
