"""Output on the terminal: results, status messages, a progress bar.

Begin with `output.py`: results on stdout, status messages on stderr.
"""
