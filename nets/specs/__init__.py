"""Specifications: inputs, torsos, heads and whole networks as plain data that goes into ``model.json`` and back.

May import base alone, and never torch. Begin with `network.py`; `registry.py` is how users add kinds.
"""
