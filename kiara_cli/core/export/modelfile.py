"""A Modelfile, from which ollama makes a model of a GGUF file.

In: the file, and what it says about its tokenizer. Out: the Modelfile beside it, and the commands that run both.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from kiara_cli.core.export.gguf_tokenizer import Vocabulary
from kiara_cli.core.tokenizer.jinja import render
from kiara_cli.errors import KiaraError

NAME = "Modelfile"
PLAIN = "{{ .Prompt }}"  # a model that has learned no conversations continues what is typed


def place_of(path: Path) -> Path:
    """Return where the Modelfile of a GGUF file is; where another's has the name, it is called after its file."""
    place = path.with_name(NAME)
    if place.exists() and f"FROM ./{path.name}\n" not in place.read_text(encoding="utf-8", errors="replace"):
        return path.with_name(f"{path.stem}.{NAME}")
    return place


def write(path: Path, made: Vocabulary, context: int) -> None:
    """Write it beside `path`."""
    lines = [f"FROM ./{path.name}"]
    template = PLAIN if made.template is None else for_ollama(made)
    if template is not None:  # else ollama looks for one it knows
        lines.append(f'TEMPLATE """{template}"""')
    stops = dict.fromkeys(token for token in (made.turn_end, made.end) if token is not None)
    lines += [f"PARAMETER stop {json.dumps(made.texts[token], ensure_ascii=False)}" for token in stops]
    lines.append(f"PARAMETER num_ctx {context}")
    place_of(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def commands(path: Path) -> list[str]:
    """Return what to type for llama.cpp and for ollama."""
    name = re.sub(r"[^a-z0-9_.-]+", "-", path.stem.lower()).strip("-.") or "kiara"
    file, modelfile = shlex.quote(str(path)), shlex.quote(str(place_of(path)))
    return [f"llama-cli -m {file}", f"ollama create {name} -f {modelfile} && ollama run {name}"]


def for_ollama(made: Vocabulary) -> str | None:
    """Return a chat template in ollama's language, worked out from what the Jinja template writes around messages.

    None where it writes more than a beginning, and something before and behind each message of a role.
    """
    assert made.template is not None
    template, names = made.template, made.names
    says = {role: f"<{role} says this>" for role in ("system", "user", "assistant")}

    def written(*roles: str, reply: bool = False) -> list[str]:
        """Return what stands before, between and behind the messages."""
        messages = [{"role": role, "content": says[role]} for role in roles]
        text = render(template, messages, names, reply=reply)
        parts = re.split("|".join(map(re.escape, says.values())), text)
        if len(parts) != len(roles) + 1:
            raise ValueError("a message is left out, or stands twice")
        return parts

    try:
        after_user = written("user")[-1]
        after_assistant = written("user", "assistant")[-1]
        start, to_assistant, to_user, _ = written("user", "assistant", "user")
        before_assistant, before_user = _behind(to_assistant, after_user), _behind(to_user, after_assistant)
        reply = _behind(written("user", reply=True)[-1], after_user)
        around = {"user": (before_user, after_user), "assistant": (before_assistant, after_assistant)}
        default = start.removesuffix(before_user)
        begin = made.texts[made.begin] if made.add_begin and made.begin is not None else ""
        begin = begin if start.startswith(begin) else ""
        default = default.removeprefix(begin)  # ollama writes it, as llama.cpp does
        try:
            before_system, to_user, _ = written("system", "user")
            around["system"] = (before_system.removeprefix(begin), to_user.removesuffix(before_user))
        except KiaraError:
            pass  # it takes none
        longer = ("user", "assistant", "user", "assistant", "user")
        as_found = begin + default + "".join(says[role].join(around[role]) for role in longer) + reply
        if as_found != render(template, [{"role": role, "content": says[role]} for role in longer], names):
            return None
    except (KiaraError, ValueError):
        return None
    roles = "".join(
        f'{{{{ if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}{{{{ end }}}}'
        for role, (before, after) in around.items()
    )
    if default and "system" in around:
        default = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{default}{{{{ end }}}}'
    whole = f"{default}{{{{ range .Messages }}}}{roles}{{{{ end }}}}{reply}"
    return None if '"""' in whole else whole


def _behind(text: str, before: str) -> str:
    """Return the rest of a text that begins in a certain way. Raises ValueError if it does not."""
    if not text.startswith(before):
        raise ValueError(text)
    return text[len(before) :]
