"""Spans of answers by OpenTelemetry's conventions for generative AI, for a collector that the institution names.

No prompt, no answer, no caller and no answer's id is in a span; none is made where no collector is named. What belongs
here: what a span says, and where it is sent. What does not: when an answer begins and ends (`answering.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import VARIABLES
from sovereign_pipeline.serving.engines.engine import Deployable, Sampling
from sovereign_pipeline.serving.gateway.refusal import Refusal

SERVICE = "sovereign-gateway"
SECONDS_TO_SEND = 5
"""What is not sent in that time is lost, and hinders no answer."""

_PARENT = TraceContextTextMapPropagator()


class Collector:
    """Sends spans to an address by OTLP over HTTP, a batch at a time, beside the answers."""

    def __init__(self, url: str) -> None:
        """url: such as `http://127.0.0.1:4318/v1/traces`. Raises InputError for what is no such address."""
        import requests
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                f"{VARIABLES['otlp_url']}: {url} is no address of a collector.",
                "Write http://127.0.0.1:4318/v1/traces.",
            )
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # else a caller's traceparent decides whether there is a span
            resource=Resource({"service.name": SERVICE}),
            shutdown_on_exit=False,
        )
        session = requests.Session()
        session.trust_env = False  # no proxy and no .netrc: what is named is what is reached
        exporter = OTLPSpanExporter(endpoint=url, timeout=SECONDS_TO_SEND, session=session)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))

    @property
    def tracer(self) -> Tracer:
        return self._provider.get_tracer(SERVICE)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


@contextmanager
def traced(tracer: Tracer, model: str, adapter: Deployable, sampling: Sampling, parent: str | None) -> Iterator[Span]:
    """The span of one answer, ended with it.

    Args:
        model: the name by which it was asked for.
        parent: the caller's `traceparent` header; another form of it is no parent.

    Names of attributes: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/.
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
    except BaseException as error:  # told as it is; its message is not
        kind = error.code if isinstance(error, Refusal) else type(error).__name__
        span.set_attribute("error.type", kind)
        span.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        span.end()


def state_use(
    span: Span, prompt_tokens: int, answer_tokens: int, finish: str | None, first_seconds: float | None
) -> None:
    """State what an answer took. first_seconds: from its admission to its first token."""
    span.set_attribute("gen_ai.usage.input_tokens", prompt_tokens)
    span.set_attribute("gen_ai.usage.output_tokens", answer_tokens)
    if finish is not None:
        span.set_attribute("gen_ai.response.finish_reasons", [finish])
    if first_seconds is not None:
        span.set_attribute("gen_ai.response.time_to_first_chunk", first_seconds)
