"""What every route needs: the model, the limits, and the way into the worker's queue.

In: an HTTP request. Out: the model it names, and a `Job` that the worker has accepted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from kiara_cli.config.schema import ServeConfig
from kiara_cli.core.generate.engine import GenerationRequest
from kiara_cli.core.serve.jobs import Following, Job
from kiara_cli.core.serve.refusals import Refusal
from kiara_cli.core.serve.served import Served
from kiara_cli.core.serve.worker import Worker


@dataclass
class Caller:
    """Who sent a request, and what came of it; the access log reads it in the end."""

    id: str
    client: str  # which queue its jobs go to: a key's number, or an address
    address: str
    job: Job | None = None
    asked: str | None = None  # the prompt, if logs may hold it


@dataclass(frozen=True)
class Admission:
    """Checks requests against the limits and hands them to the worker."""

    worker: Worker
    limits: ServeConfig
    began: float = field(default_factory=time.monotonic)

    def find(self, model: str | None) -> Served:
        """Return the model that is asked for. Raises Refusal."""
        served = self.worker.served
        if model is not None and model != served.name:
            raise Refusal(
                404, f"there is no model {model!r} here; there is {served.name!r}", "model", "model_not_found"
            )
        return served

    def submit(
        self,
        request: Request,
        served: Served,
        generations: Sequence[GenerationRequest],
        streamed: bool,
        following: Following | None = None,
    ) -> Job:
        """Queue generations. Raises Refusal if there is no room."""
        caller: Caller = request.scope["kiara"]
        job = Job(served, generations, caller.client, self.limits.max_seconds, streamed, following)
        self.worker.submit(job)
        caller.job = job
        return job

    def log_prompt(self, request: Request, text: str) -> None:
        """Keep a prompt for the log, if logs may hold it."""
        if self.limits.log_prompts:
            request.scope["kiara"].asked = text

    def check_length(self, tokens: int | None, default: int, param: str) -> int:
        """Return how many tokens to write at most. Raises Refusal."""
        if tokens is not None and tokens > self.limits.max_tokens:
            raise Refusal(400, f"{param} is {tokens}; this server writes at most {self.limits.max_tokens}", param)
        return min(default, self.limits.max_tokens) if tokens is None else tokens

    def check_choices(self, number: int) -> None:
        """Refuse more texts at once than a request may ask for."""
        if number > self.limits.max_choices:
            most = self.limits.max_choices
            raise Refusal(400, f"{number} texts in one request; this server writes at most {most}", "n")


async def _admission(request: Request) -> Admission:
    admission: Admission = request.app.state.admission
    return admission


Admitting = Annotated[Admission, Depends(_admission)]


def check_prompt(ids: Sequence[int], served: Served, param: str) -> None:
    """Refuse a prompt that the model cannot read as a whole, or that holds unknown ids."""
    if len(ids) > served.context:
        raise Refusal(
            400,
            f"the prompt is {len(ids)} tokens long; this model reads at most {served.context}",
            param,
            "context_length_exceeded",
        )
    check_ids(ids, served, param)


def check_ids(ids: Sequence[int], served: Served, param: str) -> None:
    """Refuse ids that the tokenizer does not have."""
    strange = next((i for i in ids if not 0 <= i < served.tokenizer.size), None)
    if strange is not None:
        raise Refusal(400, f"there is no token {strange}; ids go from 0 to {served.tokenizer.size - 1}", param)
