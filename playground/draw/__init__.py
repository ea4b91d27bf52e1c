"""Draw: a classifier's guesses for what a tab draws, the layers of its network, and single units.

May import what stands loose in the playground below its page. Begin with `drawing.py`.
"""
