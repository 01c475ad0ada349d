"""The loop operator of torch, which has no public name yet.

Private: ``torch._higher_order_ops``.
"""

from torch._higher_order_ops.scan import scan

__all__ = ["scan"]
