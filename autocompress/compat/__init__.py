"""Every use of private names, one module a library; ``constraints.txt`` pins the versions.

A function says what is private in it. ``tests/test_compat.py`` fails where an installed library
lacks a name.
"""
