"""The command line of benchmarks that run studies of problems, and show them side by side."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

Key = tuple[str, str, int]
"""A study: the strategy, the problem, the seed."""

Run = Callable[[list[str], list[str], int, int, Path, str | None], None]


def side_by_side(studies: Collection[Key], told: str, mean: Callable[[list[Key]], list[float]]) -> Iterator[str]:
    """The lines of a table: over all problems and for each, of the studies that all strategies share.

    Args:
        studies: The studies.
        told: What the numbers are, for the first line.
        mean: The numbers of a strategy, from some of its studies.
    """
    names = list(dict.fromkeys(name for name, _, _ in studies))
    pairs = sorted({key[1:] for key in studies if all((name, *key[1:]) in studies for name in names)})
    yield f"{len(pairs)} studies each; {told}"
    for problem in ["all", *dict.fromkeys(problem for problem, _ in pairs)]:
        yield f"\n{problem}"
        shared = [pair for pair in pairs if problem in ("all", pair[0])]
        for name in names:
            numbers = mean([(name, *pair) for pair in shared])
            yield f"  {name:28} " + "  ".join(f"{number:8.4f}" for number in numbers)


def command(doc: str | None, problems: Collection[str], seeds: int, run: Run, table: Callable[[Path], None]) -> None:
    """Read the command line, and do what it says.

    Args:
        doc: What the benchmark is about.
        problems, seeds: What is run by default.
        run: Runs studies: strategies, problems, seeds, trials, the file of results, the interpreter of the peers.
        table: Shows a file of results.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("names", nargs="+")
    running.add_argument("--problems", nargs="+", default=list(problems))
    running.add_argument("--seeds", type=int, default=seeds)
    running.add_argument("--trials", type=int, default=100)
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--python", help="the interpreter that has the peers")
    commands.add_parser("table").add_argument("file", type=Path)
    given = parser.parse_args()
    if given.command == "run":
        run(given.names, given.problems, given.seeds, given.trials, given.out, given.python)
    else:
        table(given.file)
