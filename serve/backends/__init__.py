"""Backends that compute a served model: ONNX Runtime, torch, CUDA graphs; padding, and a cache of ONNX exports.

May import config. Begin with `selection.py`, which chooses one and compares it with torch.
"""
