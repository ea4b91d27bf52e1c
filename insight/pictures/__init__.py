"""Figures: layers, units, answers, decision surfaces; arrays in, PNG files out.

May import units. Begin with `canvas.py`, which says what all of them look like.
"""
