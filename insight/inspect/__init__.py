"""Inspection of a model: what ``torso inspect`` draws of its layers, units, answers and mistakes.

May import the other rooms of insight. Begin with `inspecting.py`.
"""
