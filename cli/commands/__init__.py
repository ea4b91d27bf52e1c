"""Commands of ``torso``, one file each: a dataclass of options, and ``run(options)``, which returns the exit code.

May import the rest of cli but entry, and every other folder. Begin with `train.py` or `serve.py`.
"""
