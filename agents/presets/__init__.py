"""Presets: tested settings by env, as data, with their sources, and the algorithm to begin with.

May import value_based and what is below it. Begin with `lookup.py`.
"""
