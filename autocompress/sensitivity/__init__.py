"""Sensitivity of each group of layers to fewer bits, and recipes of mixed bits."""
