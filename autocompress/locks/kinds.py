"""Types for locks."""

from __future__ import annotations

from typing import Literal

Kind = Literal["shared", "exclusive"]
"""Any number of processes may hold a lock shared; only one may hold it exclusive."""
