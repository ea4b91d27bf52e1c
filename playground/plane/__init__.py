"""Two dimensions: a small network learns points of the plane that a tab places, and shows what it computes there.

May import what stands loose in the playground below its page. Begin with `plane_tab.py`.
"""
