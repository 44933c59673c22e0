"""Traces, metrics and health of workflows, for OpenTelemetry and Prometheus; see `docs/observability.md`."""
