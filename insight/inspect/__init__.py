"""Inspection of a model: the pictures that ``torso inspect`` draws of its layers, units and predictions.

May import the other rooms of insight. Begin with `inspecting.py`.
"""
