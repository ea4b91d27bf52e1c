"""Vector environments for torso's agents: made by id or function, checked, seeded, with action masks.

May import base alone; it reaches a game only through its registered entry point. Begin with `world.py`.
"""
