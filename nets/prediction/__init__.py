"""Prediction with a loaded model: input validation, image and Atari preprocessing, inference backends, decoding.

May import specs, modules and models. Begin with `predictor.py`.
"""
