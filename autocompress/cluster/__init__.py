"""A Ray cluster of several nodes: connecting, probing, placing workers."""
