"""Admits nodes for work: those that were probed and do not differ from the driver."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autocompress.cluster import probing
from autocompress.cluster.nodes import Node, Nodes
from autocompress.cluster.probing import Facts, Question
from autocompress.errors import UserError
from autocompress.files import own_variables, write_text
from autocompress.job import Job

ANSWERS_WITHIN_S = 120.0
"""Maximum seconds for a node to start a process of Python and to answer."""


@contextmanager
def question_of(job: Job, folder: Path) -> Iterator[Question]:
    """A question with a temporary file in the folder of the run."""
    secret = secrets.token_hex(16)
    nonce = folder.resolve() / "ray" / f"nonce-{secret[:8]}"
    write_text(nonce, secret)
    try:
        yield Question(nonce, secret, probing.paths_of(job), own_variables())
    finally:
        with contextlib.suppress(OSError):
            nonce.unlink(missing_ok=True)


class Admission:
    """Probes nodes when a search begins, and when they join later.

    Args:
        nodes: nodes of the cluster.
        question: the question that each node is asked.
        note: called with a text for each node that gets no work.
        same_processor: refuses nodes with another processor than the driver's.
    """

    def __init__(self, nodes: Nodes, question: Question, note: Callable[[str], None], *, same_processor: bool) -> None:
        self._nodes, self._question, self._note = nodes, question, note
        self._same_processor = same_processor
        self.own = probing.own_facts()
        """The facts of the driver."""
        self._asked: dict[str, tuple[Node, Any, float]] = {}
        self.facts: dict[str, Facts] = {}
        """The facts of admitted nodes, by id."""
        self.refused: dict[str, str] = {}
        """The reason for each refused node, by id."""

    def begin(self) -> None:
        """Probes all nodes, and waits for them.

        Raises:
            UserError: if no node is admitted.
        """
        self.look(wait_s=ANSWERS_WITHIN_S)
        if not self.facts:
            said = "; ".join(self.refused.values()) or "it has no nodes"
            raise UserError(f"no node of the cluster can work for this search: {said}", "see docs/cluster.md")

    def look(self, wait_s: float = 0.0) -> None:
        """Asks nodes that joined, and takes answers that arrive within ``wait_s``."""
        joined = [node for node in self._nodes.alive.values() if not self._is_known(node.id)]
        now = time.monotonic()
        references = probing.ask(joined, self._question) if joined else {}
        self._asked.update({node.id: (node, references[node.id], now) for node in joined})
        deadline = now + wait_s
        for name, (node, reference, since) in list(self._asked.items()):
            found = probing.read(reference, wait_s=max(0.0, deadline - time.monotonic()))
            if found is None and time.monotonic() - since >= ANSWERS_WITHIN_S:
                found = f"it does not answer within {ANSWERS_WITHIN_S:.0f} s"
            if found is not None:
                del self._asked[name]
                self._judge(node, found)

    def refuse(self, node: str, why: str) -> bool:
        """Gives no more work to an admitted node.

        Returns:
            Whether another node in the cluster is admitted.
        """
        if self.facts.pop(node, None) is not None:
            shown = self._nodes.alive.get(node, node)
            self.refused[node] = f"node {shown}: {why}"
            self._note(f"node {shown} gets no more work: {why}")
        return any(other in self.facts for other in self._nodes.alive)

    def _is_known(self, node: str) -> bool:
        return node in self.facts or node in self.refused or node in self._asked

    def _judge(self, node: Node, found: Facts | str) -> None:
        own = self.own if isinstance(found, str) else Facts(**{**vars(self.own), "clock": time.time()})
        why = found if isinstance(found, str) else probing.differences(own, found, same_processor=self._same_processor)
        if isinstance(found, Facts) and not why:
            self.facts[node.id] = found
            return
        self.refused[node.id] = f"node {node}: {why}"
        self._note(f"node {node} gets no work: {why}")
