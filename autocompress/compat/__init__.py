"""Every use of a library's private names, one module a library; ``constraints.txt`` pins versions
that have them.

A function says what is private in it. ``tests/test_compat.py`` fails where an installed library
lacks a name.
"""
