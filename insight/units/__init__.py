"""What single layers and units of a network do: activations, optimal stimuli, adversarial inputs, portraits of units.

May import nets and envs. Begin with `layers.py`.
"""
