"""Figures of layers, units, predictions and decision surfaces: arrays in, PNG files out.

May import units. Begin with `canvas.py`, which holds the style that all of them share.
"""
