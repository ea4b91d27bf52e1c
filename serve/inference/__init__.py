"""Inference: the queue of a model, dynamic batches, the forward of a batch, latency estimates.

May import wire and observability. Begin with `batcher.py`.
"""
