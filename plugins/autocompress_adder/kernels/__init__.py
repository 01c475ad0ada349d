"""Kernels of AdderNet: one idea a file, compared with :mod:`plain` in the tests."""
