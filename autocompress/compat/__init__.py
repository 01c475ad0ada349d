"""All uses of private names of libraries, one module per library.

``constraints.txt`` pins the versions. The docstring of each function names what is private.
``tests/test_compat.py`` fails if an installed library lacks such a name.
"""
