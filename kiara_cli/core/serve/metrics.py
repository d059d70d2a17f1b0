"""What Prometheus reads: counters and gauges in the style of vLLM's names.

In: what happens to requests. Out: the text of /metrics.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
BETWEEN = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)


class Metrics:
    """All that is counted, in a registry of its own."""

    def __init__(self, running: Callable[[], int], waiting: Callable[[], int], memory: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.http = Counter(
            "kiara:http_requests", "Answers by path and status.", ["method", "path", "status"], registry=self.registry
        )
        self.ended = Counter(
            "kiara:request_success", "Generations that ended, by reason.", ["finished_reason"], registry=self.registry
        )
        self.cancelled = Counter("kiara:request_cancelled", "Generations whose client left.", registry=self.registry)
        self.refused = Counter("kiara:request_refused", "Requests that found the queue full.", registry=self.registry)
        self.tokens_in = Counter("kiara:prompt_tokens", "Tokens of prompts.", registry=self.registry)
        self.tokens_out = Counter("kiara:generation_tokens", "Tokens sampled.", registry=self.registry)
        self.first_token = self._histogram("time_to_first_token_seconds", "From request to first token.", SECONDS)
        self.between = self._histogram("inter_token_latency_seconds", "Between two tokens of a generation.", BETWEEN)
        self.whole = self._histogram("e2e_request_latency_seconds", "From request to last token.", SECONDS)
        self._gauge("num_requests_running", "Generations in progress.", running)
        self._gauge("num_requests_waiting", "Generations waiting in the queue.", waiting)
        self._gauge("cache_bytes", "Memory of keys and values, those kept for reuse included.", memory)

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"kiara:{name}", about, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, about: str, value: Callable[[], int]) -> None:
        Gauge(f"kiara:{name}", about, registry=self.registry).set_function(value)
