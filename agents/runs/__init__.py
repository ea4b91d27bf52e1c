"""Run directories: checkpoints, metrics logs, learning curves, events and callbacks of a training or a fit.

May import optim. Begin with `run_directory.py`.
"""
