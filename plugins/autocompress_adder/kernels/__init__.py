"""Kernels of AdderNet; tests compare them with :mod:`plain`."""
