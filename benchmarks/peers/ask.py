"""A peer as a process: JSON lines in, JSON lines out. It runs under an interpreter that has the peer, and knows no more
of this repository than the shape of a space in JSON.

    {"study": {"peer": "optuna_tpe", "space": {...}, "seed": 0, "trials": 100}} -> true
    {"ask": 8}                          -> [{...}, ...]   configurations of active parameters
    {"tell": [0.1, ...]}                -> true           their losses, in the same order; null for failed
                                                     trials (Optuna alone); lists of losses in a study
                                                     with "objectives": 2 (Optuna and Ax alone)
    {"limits": [[0.1, ...], ...]}       -> true           before tell: each trial's excess beyond each
                                                     limit (Optuna alone)
    {"history": [[{...}, 0.1], ...]}    -> true           trials that it did not propose (Optuna alone)
    {"job": null}                       -> {...}, null    multi-fidelity: the next training, or wait (``Job`` in
                                                          benchmarks/multi_fidelity.py)
    {"report": [job, fidelity, loss]}   -> true           whether that training is to go on
    {"end": [job, fidelity, loss]}      -> true           that it is over, stopped or not
    {"seconds": null}                   -> 12.3           the processor time of this process

A study ends where the next begins: some peers take long to import. A peer ``smac_eager`` is the class ``Peer`` of
``with_smac.py``, told its whole name.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import warnings
from typing import Any


def study(
    peer: str, space: dict[str, Any], seed: int, trials: int = 0, fidelity: Any = None, objectives: int = 1
) -> Any:
    parameters = {key: p for key, p in space["parameters"].items() if p["type"] != "fixed"}
    module = importlib.import_module("with_" + peer.split("_")[0])
    if fidelity is not None:
        return module.FidelityPeer(peer, parameters, seed, fidelity)
    several = {"objectives": objectives} if objectives > 1 else {}
    return module.Peer(peer, parameters, seed, trials, **several)


def main() -> None:
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # a peer that prints must not speak in between
    peer: Any = None
    for line in sys.stdin:
        ((verb, argument),) = json.loads(line).items()
        answer = None
        if verb == "study":
            peer = study(**argument)
        elif verb == "seconds":
            answer = time.process_time()
        else:
            answer = getattr(peer, verb)(argument)
        print(json.dumps(True if answer is None else answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
