"""Observability: metrics and their Prometheus exposition, logs, OpenTelemetry traces, the HTTP port of /readyz.

May import wire. Begin with `metrics.py`.
"""
