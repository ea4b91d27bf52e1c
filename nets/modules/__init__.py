"""PyTorch modules: layers, torsos, heads, losses, and the network that is put together from them.

May import specs. Begin with `network.py`, then `heads.py` for what a prediction means.
"""
