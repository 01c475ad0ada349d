"""How right an exported file is, whatever device its latency is measured on."""

from autocompress.scoring.scorer import Scorer, images_between_pauses

__all__ = ["Scorer", "images_between_pauses"]
