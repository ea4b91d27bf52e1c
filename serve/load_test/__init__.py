"""Load generator: open and closed loops against a running server, latencies, goodput, a plot.

May import wire, client and observability. Begin with `generator.py`.
"""
