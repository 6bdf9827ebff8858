"""What Prometheus reads. Every label comes from a closed set: a stranger cannot make new series."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)  # seconds; a join takes two milliseconds


class Metrics:
    """The registrar's metrics, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.introductions = Counter(
            "handfast_introductions", "Introductions by method and outcome", ["method", "code"], registry=registry
        )
        self.requests = Counter(
            "handfast_requests", "HTTP requests by route and status", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "handfast_request_seconds", "Time to answer", ["route"], buckets=_LATENCIES, registry=registry
        )
        self.alarms = Counter(
            "handfast_alarms", "One-time markers presented with another key, since the start", registry=registry
        )
        self.connections = Gauge("handfast_connections", "Connections open or in their handshake", registry=registry)
        self.refused_connections = Counter(
            "handfast_refused_connections", "Connections over a limit", ["limit"], registry=registry
        )
        self.limited = Counter("handfast_limited", "Requests answered with 429", registry=registry)
        self.log_tampered = Gauge(
            "handfast_log_tampered", "1 if the log does not extend what we signed of it", registry=registry
        )
        self.serving_expiry = Gauge(
            "handfast_serving_certificate_expiry_seconds", "End of our certificate, Unix time", registry=registry
        )

    def text(self) -> bytes:
        """Return the exposition."""
        return generate_latest(self.registry)
