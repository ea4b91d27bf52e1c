"""Inference: the queue of a model, dynamic batches, backends (ONNX Runtime, torch, CUDA graphs), latency estimates.

May import wire and observability. Begin with `batcher.py`.
"""
