"""Games: Atari through the ALE, MinAtar, Forager, and worlds made of digits; each registered in `entry_points.py`.

May import vector and datasets. Begin with `identity.py`, the smallest.
"""
