"""The traced graph of a model, and facts about its layers."""

import autocompress.compat.torch_compiler  # noqa: F401  # imports timm, in half of the time
from autocompress.graph.facts import LayerFacts, NetworkFacts, facts
from autocompress.graph.trace import UntraceableModel, evaluating, let_trace, trace, without_tracing

__all__ = [
    "LayerFacts",
    "NetworkFacts",
    "UntraceableModel",
    "evaluating",
    "facts",
    "let_trace",
    "trace",
    "without_tracing",
]
