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
from kiara_cli.core.serve.bodies import Body
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
        if model and model != served.name:
            raise Refusal(
                404, f"there is no model {model[:200]!r} here; there is {served.name!r}", "model", "model_not_found"
            )
        return served

    def submit(
        self,
        request: Request,
        served: Served,
        generations: Sequence[GenerationRequest],
        streamed: bool,
        following: Following | None = None,
        show_end: bool = False,
    ) -> Job:
        """Queue generations. Raises Refusal if there is no room."""
        caller: Caller = request.scope["kiara"]
        job = Job(served, generations, caller.client, self.limits.max_seconds, streamed, following, show_end)
        self.worker.submit(job)
        caller.job = job
        return job

    def log_prompt(self, request: Request, text: str) -> None:
        """Keep a prompt for the log, if logs may hold it."""
        if self.limits.log_prompts:
            request.scope["kiara"].asked = text

    def length(self, body: Body, names: Sequence[str], default: int) -> int:
        """Return how many tokens to write at most: the first of the names with a value says so.

        -1 and null mean no limit but the server's own, `serve.max_tokens`, to which all else is cut too.
        """
        sent = [getattr(body, name) for name in body.sent(*names)]
        asked = next((length for length in sent if length is not None), -1 if sent else default)
        return min(asked, self.limits.max_tokens) if asked >= 0 else self.limits.max_tokens

    def check_choices(self, body: Body, number: int) -> None:
        """Refuse more texts at once than a request may ask for."""
        most = self.limits.max_choices
        if number > most:
            param = (body.sent("n") or ["prompt"])[0]
            raise Refusal(400, f"{number} texts in one request; this server writes at most {most}", param)


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
