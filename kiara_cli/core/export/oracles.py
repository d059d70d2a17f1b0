"""Other programs, asked what they make of an export: `transformers` for a folder, llama.cpp for a GGUF file.

In: the path of an export. Out: a `Judge` that turns text into ids and continues ids, with what it scored. Used by
`--check` and by tests alone; writing an export needs none of them.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from kiara_cli.core.model.cache import Cache
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.conversation import Template
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError

TOP = 50  # of the scores of each step, how many llama.cpp is asked for


@dataclass(frozen=True)
class Step:
    """One greedy step: the id, and the log-probabilities of the likeliest ids (or of all)."""

    id: int
    scores: dict[int, float]


class Judge(Protocol):
    """A program that runs a model."""

    name: str

    def encode(self, text: str) -> list[int]:
        """Turn text into ids; marks inside of it are text."""

    def encode_talk(self, messages: Sequence[Message]) -> list[int] | None:
        """Turn a conversation into ids, by the model's chat template; None without one, or where it refuses."""

    def continue_greedily(self, prompt: Sequence[int], steps: int) -> list[Step]:
        """Continue ids, at most `steps` times."""


class Kiara:
    """Kiara itself, in float32: what the others are held against."""

    name = "kiara"

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, begin: Sequence[int], template: Template | None = None
    ) -> None:
        self.model, self.tokenizer, self.begin, self.template = model.eval(), tokenizer, begin, template

    def encode(self, text: str) -> list[int]:
        return [*self.begin, *self.tokenizer.encode(text)]

    def encode_talk(self, messages: Sequence[Message]) -> list[int] | None:
        if self.template is None or self.template.kind == "transcript":
            return None
        with contextlib.suppress(KiaraError):
            return self.template.encode(messages)
        return None

    @torch.inference_mode()
    def continue_greedily(self, prompt: Sequence[int], steps: int) -> list[Step]:
        config = self.model.config
        length = min(config.context_length, len(prompt) + steps)
        cache = Cache(config, 1, self.model.device, torch.float32, length)
        return _continue(lambda fresh: self.model(fresh, cache)[0, -1], prompt, steps)


class Transformers:
    """Hugging Face's `transformers`, in float32."""

    name = "transformers"

    def __init__(self, folder: Path) -> None:
        transformers = _package("transformers", "pip install 'kiara-slm[export]'")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32
        ).eval()
        taken = inspect.signature(self.model.forward).parameters
        self._cache = "cache" if "cache" in taken else "past_key_values"  # its name until transformers 5.23

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=True, split_special_tokens=True)
        return ids

    def encode_talk(self, messages: Sequence[Message]) -> list[int] | None:
        if self.tokenizer.chat_template is None:
            return None
        written = self.tokenizer.apply_chat_template([*messages], add_generation_prompt=True, tokenize=False)
        ids: list[int] = self.tokenizer.encode(written, add_special_tokens=False)
        return ids

    @torch.inference_mode()
    def continue_greedily(self, prompt: Sequence[int], steps: int) -> list[Step]:
        past: Any = None

        def score(fresh: Tensor) -> Tensor:
            nonlocal past
            answer = self.model(input_ids=fresh, use_cache=True, **{self._cache: past})
            past, logits = answer[self._cache], answer.logits[0, -1]
            return logits  # type: ignore[no-any-return]

        return _continue(score, prompt, steps)


class LlamaCpp:
    """llama.cpp, from the wheel `xllamacpp`, on the CPU: a server on a free port of the loopback address."""

    name = "llama.cpp"

    def __init__(self, path: Path, context: int, threads: int = 1, jinja: bool = True) -> None:
        x = _package("xllamacpp", "pip install xllamacpp")
        wanted = x.CommonParams()
        wanted.model.path = str(path)
        wanted.n_ctx, wanted.n_gpu_layers, wanted.verbosity = context, 0, -1
        wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = threads
        wanted.use_jinja = jinja
        wanted.warmup = wanted.ui = wanted.fit_params = False
        wanted.cache_type_k = wanted.cache_type_v = x.ggml_type.GGML_TYPE_F32
        wanted.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        try:
            self.server = x.Server(wanted)
        except RuntimeError as error:
            raise KiaraError(f"llama.cpp cannot load the export ({error})", "report it: this is a fault") from None

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.ask("tokenize", {"content": text, "add_special": True, "parse_special": False})[
            "tokens"
        ]
        return ids

    def encode_talk(self, messages: Sequence[Message]) -> list[int] | None:
        prompt = self.ask("apply-template", {"messages": [*messages]})["prompt"]
        body = {"content": prompt, "add_special": True, "parse_special": True}
        ids: list[int] = self.ask("tokenize", body)["tokens"]
        return ids

    def continue_greedily(self, prompt: Sequence[int], steps: int) -> list[Step]:
        """One request a step: over several, the server leaves out the scores of ids that end within a character."""
        settings = {"n_predict": 1, "temperature": 0, "n_probs": TOP, "return_tokens": True, "cache_prompt": True}
        made: list[Step] = []
        while len(made) < steps:
            answer = self.ask("completion", {"prompt": [*prompt, *(step.id for step in made)], **settings})
            if not answer["tokens"]:
                break  # the text has ended
            scored = answer.get("completion_probabilities") or [{"top_logprobs": ()}]
            scores = {one["id"]: one["logprob"] for one in scored[0]["top_logprobs"]}
            made.append(Step(answer["tokens"][0], scores))
        return made

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request to the server."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(
            f"{self.server.listening_address}/{path}", json.dumps(body).encode(), headers
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request) as answer:
            content: dict[str, Any] = json.loads(answer.read())
        return content


def _continue(score: Callable[[Tensor], Tensor], prompt: Sequence[int], steps: int) -> list[Step]:
    """Choose the best id again and again. `score` takes the ids that are new, (1, T), and scores the next, (V,)."""
    fresh, made = list(prompt), []
    for _ in range(steps):
        scores = score(torch.tensor([fresh])).float().log_softmax(-1)
        fresh = [int(scores.argmax())]
        made.append(Step(fresh[0], dict(enumerate(scores.tolist()))))
    return made


def _package(name: str, remedy: str) -> Any:
    """Import a package. Raises KiaraError where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise KiaraError(f"--check asks {name}, which is not installed", remedy) from None
