"""Train: short training runs that a tab starts, watches, stops, continues and saves; each in a process of its own.

May import what stands loose in the playground below its page. Begin with `training.py`.
"""
