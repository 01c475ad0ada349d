"""The breadth table in Markdown, written between two marks of a page."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autocompress.files import write_text
from parts.breadth_case import BASELINE
from shared.rows import read

BEGIN, END = "<!-- made by benchmarks/breadth.py --table -->", "<!-- end -->"
SIGNS = {"applies": "yes", "refused": "-", "fault": "FAULT", "limit": "slow"}
PRUNERS = ("scop", "obs", "magnitude", "bn_scale", "random")
STAGES: Mapping[str, Sequence[str]] = {
    "substitute": ("ghost", "adder"),
    "prune": PRUNERS,
    "quantize": ("quantize", "slb"),
}
"""The stages that change a network, with their methods."""
COLUMNS = ("ghost", "adder", "prune", "quantize", "slb", "deepinversion", "knowledge_within", "zskd")
Row = dict[str, Any]


def write(folder: Path, page: Path) -> None:
    """Replaces the text between the marks of ``page`` by the tables of ``folder``."""
    rows = list(read(folder / "alone.json")["rows"].values())
    pairs = list(read(folder / "pairs.json").get("rows", {}).values())
    rows.sort(key=lambda row: row["backbone"])
    text = "\n".join([*_summary(rows, pairs), "", *_backbones(rows), "", *_reasons(rows, pairs), "", *_pairs(pairs)])
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    write_text(page, f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


def by_backbone(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Rows by backbone and method."""
    found: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        found[row["backbone"]]["+".join(row["methods"])] = row
    return dict(found)


def works(own: Mapping[str, Row], stage: str, *, built: bool) -> bool | None:
    """Whether a method of ``stage`` applies; None without layers for it.

    Substitutions are for convolutions without groups, outside of stem and classifier.

    Args:
        own: the rows of a backbone by method.
        stage: one of ``STAGES``.
        built: whether rows of a run with ``--check`` are left out.
    """
    if stage == "substitute" and own.get(BASELINE, {}).get("dense_convolutions") == 0:
        return None
    return any(is_good(own.get(name, {}), built=built) for name in STAGES[stage])


def is_good(row: Row, *, built: bool) -> bool:
    """Whether the method applies, and its file, if there is one, agrees with its model."""
    seen = not (built and row.get("checked"))
    return row.get("status") == "applies" and seen and bool(row.get("agrees", True))


def figures(rows: Sequence[Row], *, built: bool) -> dict[str, int]:
    """The numbers of backbones and of rows that are compared with the targets."""
    backbones = by_backbone(rows)
    stages = {name: [works(own, stage, built=built) for stage in STAGES] for name, own in backbones.items()}
    methods = [row for row in rows if row["methods"] != [BASELINE]]
    good = {
        name: [row for method, row in own.items() if method != BASELINE and is_good(row, built=built)]
        for name, own in backbones.items()
    }
    return {
        "every stage": sum(all(found is not False for found in own) for own in stages.values()),
        "one method": sum(bool(found) for found in good.values()),
        "applies": sum(is_good(row, built=built) for row in methods),
        "agrees, by integers": sum(_agrees(row, "integers") for row in methods),
        "agrees, by floats": sum(_agrees(row, "floats") for row in methods),
        "agrees, by an older rule": sum("agrees" in row and _agrees(row, None) for row in methods),
        "differs": sum(row["status"] == "applies" and not row.get("agrees", True) for row in methods),
        "refused": sum(row["status"] == "refused" for row in methods),
        "refused by a sentence that names a layer": sum(bool(row.get("names_layer")) for row in methods),
        "limit": sum(row["status"] == "limit" for row in rows),
        "fault": sum(row["status"] == "fault" for row in rows),
    }


def _agrees(row: Row, rule: str | None) -> bool:
    return bool(row.get("agrees")) and row.get("rule") == rule


def _summary(rows: Sequence[Row], pairs: Sequence[Row]) -> Iterator[str]:
    backbones = by_backbone(rows)
    families = {own[BASELINE]["family"] for own in backbones.values() if "family" in own.get(BASELINE, {})}
    checked, built = figures(rows, built=False), figures(rows, built=True)
    yield f"{len(backbones)} backbones of {len(families)} families (timm's modules)."
    yield ""
    yield "| backbones | by check | built, written and run |"
    yield "|---|---|---|"
    for key, text in (
        ("every stage", "work with a method of each stage that has methods for their layers"),
        ("one method", "work with at least one method"),
    ):
        yield f"| {text} | {checked[key]} | {built[key]} |"
    yield ""
    yield "| rows | one method | pairs |"
    yield "|---|---|---|"
    both = figures(pairs, built=False)
    agreeing = ("agrees, by integers", "agrees, by floats", "agrees, by an older rule")
    for key in (
        "applies",
        *agreeing,
        "differs",
        "refused",
        "refused by a sentence that names a layer",
        "limit",
        "fault",
    ):
        yield f"| {key} | {checked[key]} | {both[key]} |"


def _backbones(rows: Sequence[Row]) -> Iterator[str]:
    yield "| backbone | pixels | layers | " + " | ".join(COLUMNS) + " | heads | MACs pruned | bytes int8 |"
    yield "|---|---|---|" + "---|" * (len(COLUMNS) + 3)
    for name, own in by_backbone(rows).items():
        baseline = own.get(BASELINE, {})
        pruned = next((own[p] for p in PRUNERS if is_good(own.get(p, {}), built=False)), {})
        layers = " ".join(f"{count} {kind}" for kind, count in baseline.get("layers", {}).items())
        signs = [_sign(own, column) for column in COLUMNS]
        figures_ = [
            str(pruned.get("heads") or ""),
            _share(pruned.get("macs")),
            _share(own.get("quantize", {}).get("bytes")),
        ]
        yield (
            f"| {name} | {baseline.get('pixels', '')} | {layers or baseline.get('status', '')} | "
            + " | ".join([*signs, *figures_])
            + " |"
        )


def _sign(own: Mapping[str, Row], column: str) -> str:
    names = PRUNERS if column == "prune" else (column,)
    signs = []
    for name in names:
        row = own.get(name)
        if row is not None:
            differs = row["status"] == "applies" and not row.get("agrees", True)
            sign = "differs" if differs else SIGNS[row["status"]]
            signs.append(f"({sign})" if row["status"] == "applies" and row["checked"] else sign)
    alike = list(dict.fromkeys(signs))
    return alike[0] if len(alike) == 1 else " ".join(f"{sign} {signs.count(sign)}" for sign in alike)


def _share(pair: Sequence[float] | None) -> str:
    return f"{pair[1] / pair[0]:.2f}" if pair else ""


def _reasons(rows: Sequence[Row], pairs: Sequence[Row]) -> Iterator[str]:
    """All refusals. Reasons that differ only by a name are one entry."""
    found: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in [*rows, *pairs]:
        if row["status"] in ("refused", "fault", "limit"):
            method = "+".join("prune" if name in PRUNERS else name for name in row["methods"])
            place = found[row["status"], pattern(row["reason"])]
            if row["backbone"] not in place[method]:
                place[method].append(row["backbone"])
    yield "| status | reason | methods and backbones |"
    yield "|---|---|---|"
    for (status, reason), methods in sorted(
        found.items(), key=lambda item: (item[0][0], -sum(map(len, item[1].values())))
    ):
        told = "; ".join(f"{method}: {', '.join(names)}" for method, names in methods.items())
        plain = reason.replace("|", "/").replace("](", "] (")  # neither cells nor links
        yield f"| {status} | {plain} | {told} |"


def pattern(reason: str) -> str:
    """A reason without names of layers and numbers."""
    plain = re.sub(r"'[^']*'", "'...'", reason)
    plain = re.sub(r"\b\w+(\.\w+)+\b", "...", plain)
    return re.sub(r"\d+(\.\d+)?", "N", plain)


def _pairs(pairs: Sequence[Row]) -> Iterator[str]:
    if not pairs:
        return
    backbones = by_backbone([row for row in pairs if row["methods"] != [BASELINE]])
    names = list(dict.fromkeys(name for own in backbones.values() for name in own))
    yield "| pair | " + " | ".join(backbones) + " |"
    yield "|---|" + "---|" * len(backbones)
    for name in names:
        yield f"| {name} | " + " | ".join(_sign(own, name) if name in own else "" for own in backbones.values()) + " |"
