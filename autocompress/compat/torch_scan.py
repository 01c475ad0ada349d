"""The loop operator of torch, for which it has no public name yet.

Private: ``torch._higher_order_ops``.
"""

from torch._higher_order_ops.scan import scan

__all__ = ["scan"]
