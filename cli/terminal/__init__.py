"""Output on the terminal, a progress bar, and the signals that come from there.

Begin with `output.py`: results on stdout, status messages on stderr.
"""
