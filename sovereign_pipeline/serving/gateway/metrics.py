"""Provide Prometheus metrics and OpenTelemetry spans of requests, without any text that a caller wrote."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import urlsplit

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import VARIABLES
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.serving.engines.engine import Deployable, EngineState, Sampling
from sovereign_pipeline.serving.gateway.messages import Refusal
from sovereign_pipeline.serving.rollout.telemetry import Feedback


@dataclass(frozen=True)
class Counts:
    complete: int = 0
    lost: int = 0
    cancelled: int = 0
    up: int = 0
    down: int = 0


@dataclass(frozen=True)
class Figures:
    """The present state and counts of the gateway, for `/metrics` and `/admin`."""

    engines: Sequence[EngineState]
    running: Mapping[str, int]
    """Mapping of line to the number of its running answers."""
    waiting: Mapping[str, int]
    """Mapping of line to the number of its requests in the queue."""
    adapters: Mapping[str, Counts]
    """Mapping of adapter id to the adapter's counts since the gateway started."""
    is_registry_reached: bool


CONTENT_TYPE = CONTENT_TYPE_LATEST
FIRST = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
EACH = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
WHOLE = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The counters of one gateway. Names follow OpenTelemetry's conventions for generative AI where they exist."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        counter = partial(Counter, namespace="sovereign_gateway", registry=registry)
        gauge, histogram = partial(Gauge, registry=registry), partial(Histogram, registry=registry)
        of_adapter = ("line", "adapter")
        self._requests = counter("requests", "Requests, by outcome.", (*of_adapter, "outcome"))
        self._feedback = counter(
            "feedback", "Callers' feedback on answers.", (*of_adapter, "thumb", "reason", "severity")
        )
        self._personal_data = counter(
            "personal_data",
            "Values of personal data found in requests and answers.",
            (*of_adapter, "where", "kind"),
        )
        self._unsearched = counter(
            "unsearched",
            "Requests and answers that were passed on although the search for personal data failed.",
            of_adapter,
        )
        self._tokens = counter("tokens", "Tokens of prompts and answers.", (*of_adapter, "kind"))
        self._first = histogram(
            "gen_ai_server_time_to_first_token",
            "Seconds from the request to the first token, including the wait in the queue.",
            of_adapter,
            buckets=FIRST,
        )
        self._each = histogram(
            "gen_ai_server_time_per_output_token", "Seconds for each token after the first.", of_adapter, buckets=EACH
        )
        self._whole = histogram(
            "gen_ai_server_request_duration",
            "Seconds from the request to the end of the answer.",
            of_adapter,
            buckets=WHOLE,
        )
        self._waiting = gauge("sovereign_gateway_waiting", "Requests in the queue.", ("line",))
        self._running = gauge("sovereign_gateway_running", "Answers being generated.", ("line",))
        self._registry_up = gauge("sovereign_registry_up", "1 while the registry can be reached.")
        self._engine_up = gauge("sovereign_engine_up", "1 while the engine of a base model computes.", ("base_model",))
        self._loaded = gauge("sovereign_engine_adapters", "Loaded adapters.", ("base_model",))

    def refused(self, status: int) -> None:
        """Count a request that no adapter answered."""
        self._requests.labels("", "", f"refused_{status}").inc()

    def of_tokens(self, line: str, adapter: str) -> tuple[Histogram, Histogram]:
        """Return two histograms: one of the time to the first token, and one of the time per later token."""
        return self._first.labels(line, adapter), self._each.labels(line, adapter)

    def ended(self, line: str, adapter: str, outcome: str, seconds: float, prompt: int, answer: int) -> None:
        self._requests.labels(line, adapter, outcome).inc()
        self._whole.labels(line, adapter).observe(seconds)
        self._tokens.labels(line, adapter, "prompt").inc(prompt)
        self._tokens.labels(line, adapter, "answer").inc(answer)

    def said(self, line: str, adapter: str, feedback: Feedback) -> None:
        """Count feedback. No label value is free text."""
        self._feedback.labels(line, adapter, feedback.thumb, feedback.reason or "", feedback.severity).inc()

    def found(self, line: str, adapter: str, where: Literal["request", "answer"], found: Mapping[Kind, int]) -> None:
        """Count values of personal data by kind. No label value is free text."""
        for kind, count in found.items():
            self._personal_data.labels(line, adapter, where, kind).inc(count)

    def unsearched(self, line: str, adapter: str, times: int) -> None:
        if times:
            self._unsearched.labels(line, adapter).inc(times)

    def counts(self) -> dict[str, Counts]:
        """Return a mapping of adapter id to the adapter's counts since the gateway started."""
        found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for counter, label in ((self._requests, "outcome"), (self._feedback, "thumb")):
            for sample in (each for metric in counter.collect() for each in metric.samples):
                if sample.name.endswith("_total") and sample.labels["adapter"]:
                    found[sample.labels["adapter"]][sample.labels[label]] += int(sample.value)
        return {adapter: Counts(**of) for adapter, of in found.items()}

    def page(self, figures: Figures) -> bytes:
        self._registry_up.set(figures.is_registry_reached)
        self._engine_up.clear()
        self._loaded.clear()
        for engine in figures.engines:
            self._engine_up.labels(engine.base_model).set(engine.computes)
            self._loaded.labels(engine.base_model).set(engine.adapters)
        for gauge, counts in ((self._waiting, figures.waiting), (self._running, figures.running)):
            gauge.clear()
            for line, count in counts.items():
                gauge.labels(line).set(count)
        return generate_latest(self._registry)


SERVICE = "sovereign-gateway"
SECONDS_TO_SEND = 5
"""Maximum seconds to send a batch of spans, after which the batch is dropped."""

_PARENT = TraceContextTextMapPropagator()


class Collector:
    def __init__(self, url: str) -> None:
        """Start sending spans to a collector. url: the collector's address, such as `http://127.0.0.1:4318/v1/traces`.
        Raises InputError for an invalid URL."""
        import requests
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                f"{VARIABLES['otlp_url']}: {url} is not the address of a collector.",
                "Write an address such as http://127.0.0.1:4318/v1/traces.",
            )
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # otherwise a caller's traceparent would decide whether there is a span
            resource=Resource({"service.name": SERVICE}),
            shutdown_on_exit=False,
        )
        session = requests.Session()
        session.trust_env = False  # no proxy and no .netrc: connects to exactly the configured address
        exporter = OTLPSpanExporter(endpoint=url, timeout=SECONDS_TO_SEND, session=session)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))

    @property
    def tracer(self) -> Tracer:
        return self._provider.get_tracer(SERVICE)

    def close(self) -> None:
        self._provider.shutdown()


@contextmanager
def traced(tracer: Tracer, model: str, adapter: Deployable, sampling: Sampling, parent: str | None) -> Iterator[Span]:
    """Open the trace span of one answer. The span ends when the answer ends.

    Args:
        model: model name in the request.
        parent: the caller's `traceparent` header. An invalid header is ignored.

    Attribute names follow https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/.
    """
    stated: dict[str, str | int | float] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "sovereign_pipeline",
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.response.model": adapter.adapter,
        "sovereign.classification": adapter.classification,
    }
    context = _PARENT.extract({"traceparent": parent}) if parent is not None else None
    span = tracer.start_span(f"chat {model}", context, SpanKind.SERVER, stated)
    try:
        yield span
    except BaseException as error:  # only the error's class or code is recorded, because its message may quote text
        kind = error.code if isinstance(error, Refusal) else type(error).__name__
        span.set_attribute("error.type", kind)
        span.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        span.end()


def state_use(
    span: Span, prompt_tokens: int, answer_tokens: int, finish: str | None, first_seconds: float | None
) -> None:
    """Record an answer's usage on its span. first_seconds: seconds from the request to the first token, including the
    wait in the queue; None if there was no token."""
    span.set_attribute("gen_ai.usage.input_tokens", prompt_tokens)
    span.set_attribute("gen_ai.usage.output_tokens", answer_tokens)
    if finish is not None:
        span.set_attribute("gen_ai.response.finish_reasons", [finish])
    if first_seconds is not None:
        span.set_attribute("gen_ai.response.time_to_first_chunk", first_seconds)
