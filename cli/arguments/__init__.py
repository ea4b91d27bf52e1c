"""Options of a command: one for each field of its frozen dataclass, whose type says how text is read.

Begin with `options.py`. May import nothing else of cli.
"""
