"""The metrics of an `Admin` for Prometheus: a collector of a registry, and an ASGI application for `/metrics`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from time import monotonic
from typing import NamedTuple

from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from pgqrs.client.admin import Admin
from pgqrs.errors import PgqrsError
from pgqrs.storage.queries.server import Gauges
from pgqrs.telemetry.asgi import Application, Response, application
from pgqrs.telemetry.metrics import Add, Metric, MetricsObserver

READ_TIMEOUT = 5.0
"""Maximum seconds in which a scrape reads the numbers of the tables; it goes on without them."""

LAG_INTERVAL = 0.25
"""Seconds between two measurements of the lag of the event loop."""

LIVE = Metric("pgqrs_workflows", "gauge", ("queue", "name", "status"), "Workflows that have not ended.")
OLDEST_READY = Metric(
    "pgqrs_queue_oldest_ready_timestamp_seconds",
    "gauge",
    ("queue",),
    "The time since which the oldest ready workflow of a queue waits.",
)
EXECUTORS = Metric("pgqrs_executors", "gauge", (), "Executors whose heartbeat is fresh.")
LOOP_LAG = Metric(
    "pgqrs_loop_lag_seconds", "gauge", (), "The longest lag of the event loop since the last scrape."
)
DATABASE_UP = Metric("pgqrs_database_up", "gauge", (), "1 if the last scrape has read the tables, else 0.")

GAUGES = (LIVE, OLDEST_READY, EXECUTORS, LOOP_LAG, DATABASE_UP)
"""The gauges, which a scrape reads."""

_logger = logging.getLogger("pgqrs.telemetry")


class PrometheusMetrics(Collector):
    """The metrics of an `Admin`; `instrument` creates it.

    Attributes:
        app: The ASGI application that answers a scrape, for a path such as ``/metrics``.
        cached: Seconds for which the numbers of the tables are kept.
    """

    def __init__(self, admin: Admin, registry: CollectorRegistry, cached: float) -> None:
        self.cached = cached
        self.app: Application = application(self._answer)
        self._admin = admin
        self._registry = registry
        self._read = _Read()
        self._reading = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lag = 0.0

    async def refresh(self) -> None:
        """Read the numbers of the tables, unless they were read a moment ago.

        The application does so at each scrape. Call it before `generate_latest` if you expose the registry
        yourself in the event loop; a server in another thread calls it through `collect`.
        """
        self._watch(asyncio.get_running_loop())
        async with self._reading:
            if monotonic() - self._read.at < self.cached:
                return
            try:
                async with asyncio.timeout(READ_TIMEOUT):
                    gauges = await (await self._admin.store()).reader.gauges()
            except (PgqrsError, TimeoutError) as error:
                if self._read.is_up:
                    _logger.warning("pgqrs: the gauges of the metrics could not be read: %s", error)
                self._read = _Read(monotonic(), None, is_up=False)
            else:
                self._read = _Read(monotonic(), gauges)

    def collect(self) -> Iterator[Family]:
        """Yield the gauges; read the tables first if the caller is another thread than the event loop's.

        Yields:
            The families of the gauges.
        """
        self._refresh_from_thread()
        gauges = self._read.gauges
        if gauges is not None:
            yield from _families(gauges)
        lag, self._lag = self._lag, 0.0
        yield GaugeMetricFamily(LOOP_LAG.name, LOOP_LAG.help, value=lag)
        yield GaugeMetricFamily(DATABASE_UP.name, DATABASE_UP.help, value=float(gauges is not None))

    def describe(self) -> Iterator[Family]:
        """Yield the names of the gauges, so that the registry reads nothing to learn them.

        Yields:
            The families without a value.
        """
        for each in GAUGES:
            yield GaugeMetricFamily(each.name, each.help, labels=each.labels or None)

    def _refresh_from_thread(self) -> None:
        loop = self._loop
        if loop is None or loop.is_closed() or not loop.is_running():
            return
        try:
            if asyncio.get_running_loop() is loop:
                return
        except RuntimeError:  # a thread without an event loop
            pass
        try:
            asyncio.run_coroutine_threadsafe(self.refresh(), loop).result(2 * READ_TIMEOUT)
        except TimeoutError:
            _logger.warning("pgqrs: the event loop did not read the gauges in time")

    async def _answer(self, path: str, accept: str) -> Response:  # noqa: ARG002  # one application, one path
        await self.refresh()
        encode, content_type = choose_encoder(accept)
        return Response(200, encode(self._registry), content_type)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to measure the lag of an event loop at its first scrape."""
        if self._loop is not loop:
            self._loop = loop
            self._measure(loop, loop.time())

    def _measure(self, loop: asyncio.AbstractEventLoop, expected: float) -> None:
        if self._loop is not loop:
            return
        now = loop.time()
        self._lag = max(self._lag, now - expected)
        loop.call_at(now + LAG_INTERVAL, self._measure, loop, now + LAG_INTERVAL)


class _Read(NamedTuple):
    """The numbers of the tables, and the time of the read; None if they could not be read."""

    at: float = float("-inf")
    gauges: Gauges | None = None
    is_up: bool = True


def _families(gauges: Gauges) -> Iterator[Family]:
    live = GaugeMetricFamily(LIVE.name, LIVE.help, labels=LIVE.labels)
    oldest: dict[str, float] = {}
    for each in gauges.workflows:
        live.add_metric((each.queue, each.name, each.status.value.lower()), each.number)
        if each.oldest_ready_at is not None:
            since = each.oldest_ready_at.timestamp()
            oldest[each.queue] = min(since, oldest.get(each.queue, since))
    yield live
    ready = GaugeMetricFamily(OLDEST_READY.name, OLDEST_READY.help, labels=OLDEST_READY.labels)
    for queue, since in oldest.items():
        ready.add_metric((queue,), since)
    yield ready
    yield GaugeMetricFamily(EXECUTORS.name, EXECUTORS.help, value=gauges.executors)


class _PrometheusInstruments:
    """The metrics of a registry of Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def adds_to(self, metric: Metric) -> Add:
        """Make a counter or a histogram, and return the function that adds to it."""
        name, help_, labels, registry = metric.name, metric.help, metric.labels, self._registry
        known: dict[tuple[str, ...], Add] = {}
        of_labels: Callable[[tuple[str, ...]], Add]
        if metric.kind == "histogram":
            histogram = Histogram(name, help_, labels, buckets=metric.buckets, registry=registry)
            of_labels = lambda values: (histogram.labels(*values) if values else histogram).observe  # noqa: E731
        else:
            counter = Counter(name, help_, labels, registry=registry)
            of_labels = lambda values: (counter.labels(*values) if values else counter).inc  # noqa: E731

        def add(amount: float, *values: str) -> None:
            own = known.get(values)
            if own is None:
                own = known[values] = of_labels(values)
            own(amount)

        return add


def instrument(admin: Admin, *, registry: CollectorRegistry = REGISTRY, cached: float = 10.0) -> PrometheusMetrics:
    """Count the events of an `Admin` in a registry of Prometheus, and add the numbers of its tables.

    Call it right after you create the `Admin`, once for a registry.

    Args:
        admin: The client, which has not been used yet.
        registry: The registry; that of the process by default.
        cached: Seconds for which the numbers of the tables are kept; 10 by default.

    Returns:
        The metrics, whose `app` is the ASGI application for ``/metrics``.

    Raises:
        ConfigurationError: The `Admin` has been used already.
        ValueError: The registry has the metrics of another `Admin`.
    """
    observer = MetricsObserver(_PrometheusInstruments(registry))
    metrics = PrometheusMetrics(admin, registry, cached)
    registry.register(metrics)
    admin.observe(observer)
    return metrics
