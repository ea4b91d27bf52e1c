"""Games: Atari through the ALE, MinAtar, Forager, Digits and Identity; each registered in `entry_points.py`.

May import vector and datasets. Begin with `identity.py`, the smallest.
"""
