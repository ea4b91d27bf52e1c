"""Labelled data sets: bundled, downloaded, toys, and a user's own NPZ, CSV or image files, with their fixed splits.

May import base alone. Begin with `by_name.py`, then `splits.py`.
"""
