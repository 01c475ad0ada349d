"""Compares compression without training data with its targets.

The parts are students trained from scratch, other uses of the images, time, and the tables of the
three papers from the same rows.

Each part is written to the JSON file when it is finished. Rows are in files beside it, and an
interrupted run is continued. Teachers can be run one by one, each with its own budget. Results of
other teachers are kept.

    python benchmarks/data_free.py [--parts students uses speed papers] [--seeds 0 1 2] [--threads
    2] [--out FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from parts import free_papers, free_speed, free_students, free_uses
from shared.rows import command_line, read
from shared.running import put, run_parts

OUT = Path("results/benchmarks/data_free.json")
PAPERS = Path("results/papers")
LINES = {
    "students": free_students.lines,
    "uses": free_uses.lines,
    "speed": free_speed.lines,
    "papers": free_papers.lines,
}
TEACHERS = ("digits=resnet18", "digits=lenet5", f"digits={free_students.HALF}", f"glyphs={free_students.HALF}")


def runs(chosen: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """The parts by name, with the options given."""
    o = chosen

    def beside(name: str) -> Path:
        return o.out.with_name(f"{o.out.stem}-{name}.json")

    def parts() -> dict[str, Any]:
        found: dict[str, Any] = read(o.out).get("parts", {})
        return found

    def keep(name: str) -> Callable[[dict[str, Any]], None]:
        return lambda part: put(o.out, LINES, name, part)

    def merged(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return free_students.part(parts().get("students", {}).get("data", []), found)

    students = free_students.Budget(o.images, o.iterations, o.steps)
    uses = free_uses.Budget(o.use_images, o.iterations, o.use_epochs)
    teachers = [(data, backbone) for data, _, backbone in (word.partition("=") for word in o.teachers)]
    return {
        "students": lambda: merged(
            free_students.run(
                teachers,
                o.epochs,
                o.ways,
                o.seeds,
                students,
                out=o.out,
                command=command_line(),
                keep=lambda found: put(o.out, LINES, "students", merged(found)),
            )
        ),
        "uses": lambda: free_uses.run(
            o.model, o.data, o.epochs, o.uses, o.seeds, uses, out=beside("uses"), keep=keep("uses")
        ),
        "speed": lambda: free_speed.run(o.speed_model, "digits", o.speed_images, o.speed_iterations, o.rounds),
        "papers": lambda: free_papers.run(parts(), teachers[0], o.epochs, o.images, o.iterations, o.papers),
    }


def options() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(LINES), default=list(LINES))
    parser.add_argument(
        "--teachers",
        nargs="+",
        default=TEACHERS,
        metavar="DATA=BACKBONE",
        help="teachers of students; images of the first one are on the contact sheets of the papers",
    )
    parser.add_argument("--ways", nargs="+", choices=list(free_students.WAYS), default=list(free_students.WAYS))
    parser.add_argument("--epochs", type=int, default=12, help="epochs of float baselines")
    parser.add_argument("--images", type=int, default=512, help="number of images in a set for a student")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--steps", type=int, default=1500, help="training steps of a student")
    parser.add_argument("--model", default=free_students.HALF, help="model (part uses)")
    parser.add_argument("--data", default="glyphs", help="data set (part uses)")
    parser.add_argument("--uses", nargs="+", choices=list(free_uses.USES), default=list(free_uses.USES))
    parser.add_argument("--use-images", type=int, default=1024)
    parser.add_argument("--use-epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="random seeds of sets and students")
    parser.add_argument("--speed-model", default="resnet18")
    parser.add_argument("--speed-images", type=int, default=256)
    parser.add_argument("--speed-iterations", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7, help="rounds (part speed)")
    parser.add_argument("--papers", type=Path, default=PAPERS, help="folder for the tables of the papers")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser


def main() -> None:
    """Runs the parts in order, prints their tables and writes the JSON."""
    run_parts(options().parse_args(), runs, LINES)


if __name__ == "__main__":
    main()
