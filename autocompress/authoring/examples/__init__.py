"""One small plugin of each kind. ``autocompress new-plugin`` copies one of them under a new name.

Tests run each of them through the conformance suite.
"""
