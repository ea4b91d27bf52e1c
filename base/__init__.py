"""torso: one kind of network, a torso and a head, trained to label or to act, and served over gRPC."""

__version__ = "0.1.0"
