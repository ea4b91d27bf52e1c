"""Output on the terminal: results on stdout, status messages and logs on stderr.

Begin with `output.py`.
"""
