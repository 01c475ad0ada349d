"""The traced graph of a model, and the facts about its layers that methods ask for."""

from autocompress.graph.facts import LayerFacts, NetworkFacts, facts
from autocompress.graph.trace import UntraceableModel, evaluating, trace

__all__ = ["LayerFacts", "NetworkFacts", "UntraceableModel", "evaluating", "facts", "trace"]
