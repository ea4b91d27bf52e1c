"""PyTorch modules: layers, torsos, heads, losses, and the network that combines them.

May import specs. Begin with `network.py`, then `heads.py` for predictions and readouts.
"""
