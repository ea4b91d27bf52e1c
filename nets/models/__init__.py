"""The model directory: its card, atomic saving, verified loading, ONNX export, transfer of a torso.

May import specs and modules. Begin with `directory.py`, which lists the files.
"""
