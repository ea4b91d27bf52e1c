"""Specifications: inputs, torsos, heads and whole networks as plain data, saved to ``model.json`` and restored.

May import base alone, and never torch. Begin with `network.py`; `registry.py` registers kinds of a user's own.
"""
