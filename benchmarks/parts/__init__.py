"""The parts of ``quantization.py``: each gives rows, and says whether its targets are met."""
