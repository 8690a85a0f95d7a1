"""`python -m fastnn.benchmarks`: every kernel beside its peers and the limit of the machine."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time

from .cases import DTYPES, Case, load
from .limits import Limits, machine_limits
from .peers import PEERS, Fastnn, open_peers
from .report import header, machine, summary, table, write_json, write_plot
from .run import Row, run_case


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fastnn.benchmarks", description=__doc__)
    parser.add_argument("--op", help="families or ops, with commas between (default: all)")
    parser.add_argument("--case", default="", metavar="REGEX", help="only cases whose text this matches somewhere")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--threads", type=int, help="for fastnn and every peer (default: all that fastnn would use)")
    parser.add_argument("--against", help=f"of {','.join(PEERS)} (default: those installed)")
    parser.add_argument("--rounds", type=int, default=7, help="timed blocks of each library on each case")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--predict", action="store_true", help="with --device cuda: from compiled code, without a GPU")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE.png")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1 or (arguments.threads is not None and arguments.threads < 1):
        parser.error("--rounds and --threads must be at least 1")
    if arguments.predict != (arguments.device == "cuda"):
        parser.error("expected --device cuda and --predict together: timing on a GPU is not written yet")
    if arguments.against is None:
        arguments.against = [name for name in PEERS if importlib.util.find_spec(name)]
    else:
        arguments.against = [name for name in arguments.against.split(",") if name]
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 1 where an output of fastnn differed from the reference, or 2 for arguments that cannot be met."""
    arguments = _arguments(argv)
    if arguments.predict:
        return _predict(arguments)
    try:
        cases = [
            case
            for case in load(arguments.op and arguments.op.split(","), arguments.case)
            if arguments.dtype in case.dtypes
        ]
        ours = Fastnn()
        threads = arguments.threads or ours.lib.get_num_threads()
        ours.set_threads(threads)
        peers, missing = open_peers(arguments.against, threads)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    limits = machine_limits(threads, arguments.dtype)
    info = machine(ours, peers, missing, threads)
    print(header(info, limits), flush=True)
    rows: list[Row] = []
    for index, case in enumerate(cases, 1):
        rows += _timed(index, len(cases), case, ours, peers, arguments, limits)
    print(table(rows, [peer.name for peer in peers]))
    print(summary(rows))
    if arguments.json:
        write_json(arguments.json, info, limits, rows)
    if arguments.plot:
        write_plot(arguments.plot, info, rows)
    return int(any(row.status == "FAILED" for row in rows))


def _predict(arguments: argparse.Namespace) -> int:
    from . import gpu_cases, predict

    if importlib.util.find_spec("triton") is None:
        print("--predict compiles the Triton kernels, and triton is not installed: pip install triton", file=sys.stderr)
        return 2
    try:
        cases = gpu_cases.load(arguments.op and arguments.op.split(","))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    predictions = []
    for index, case in enumerate(cases, 1):
        predictions.append(predict.predict(case))
        print(f"[{index}/{len(cases)}] {case}", file=sys.stderr, flush=True)
    print(predict.table(predictions))
    if arguments.json:
        predict.write_json(arguments.json, predictions)
    return 0


def _timed(
    index: int, total: int, case: Case, ours: Fastnn, peers: list, arguments: argparse.Namespace, limits: Limits
) -> list[Row]:
    start = time.perf_counter()
    rows = run_case(case, ours, peers, arguments.dtype, arguments.rounds, limits)
    print(f"[{index}/{total}] {case} ({time.perf_counter() - start:.1f} s)", file=sys.stderr, flush=True)
    for note in dict.fromkeys(note for row in rows for note in row.notes):
        print(f"    {note}", file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
