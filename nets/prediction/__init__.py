"""Prediction with a loaded model: input validation, image and Atari preprocessing, backends, reading of the output.

May import specs, modules and models. Begin with `predictor.py`.
"""
