"""Layers and units of a network: activations, optimal stimuli, adversarial inputs, portraits of units.

May import nets and envs. Begin with `layers.py`.
"""
