"""Vector environments in the one form that torso learns from: made by id or function, checked, seeded, masked.

May import base alone; it reaches a game only through its registered entry point. Begin with `world.py`.
"""
