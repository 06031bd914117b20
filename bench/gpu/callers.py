"""Callers over gRPC in processes of their own, so that they do not share the interpreter's lock.

    python -m bench.gpu.callers ADDRESS PAYLOADS OUTSTANDING SECONDS

PAYLOADS is a folder with the bytes of a ModelInferRequest in each file. Prints the milliseconds of every
request and the seconds of all as JSON. Imports little, because each measurement starts some.
"""

import json
import queue
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import grpc

ROOT = Path(__file__).parents[2]
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
TIMEOUT_SECONDS = 30.0
WARM_UP_REQUESTS = 10


def main() -> None:
    """Call for so long and print what it took."""
    address, folder, outstanding, seconds = sys.argv[1:]
    payloads = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    with grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary(MODEL_INFER)
        for payload in payloads[:WARM_UP_REQUESTS]:
            call(payload, timeout=TIMEOUT_SECONDS)
        taken, elapsed = _closed_loop(call, payloads, int(outstanding), float(seconds))
    print(json.dumps({"milliseconds": [round(each * 1e3, 4) for each in taken], "seconds": elapsed}))


def _closed_loop(
    call: grpc.UnaryUnaryMultiCallable, payloads: list[bytes], outstanding: int, seconds: float
) -> tuple[list[float], float]:
    """Return what each request took, and the time of all; raise what a call ended with."""
    ended: queue.SimpleQueue[tuple[grpc.Future, float]] = queue.SimpleQueue()
    taken: list[float] = []

    def send(number: int) -> None:
        sent = time.perf_counter()
        future = call.future(payloads[number % len(payloads)], timeout=TIMEOUT_SECONDS)
        future.add_done_callback(lambda done: ended.put((done, time.perf_counter() - sent)))

    begun = time.perf_counter()
    for number in range(outstanding):
        send(number)
    sent = running = outstanding
    while running:
        done, after = ended.get()
        done.result()
        taken.append(after)
        running -= 1
        if time.perf_counter() - begun < seconds:
            send(sent)
            sent, running = sent + 1, running + 1
    return taken, time.perf_counter() - begun


def call(
    address: str, payloads: Path, *, processes: int, outstanding: int, seconds: float
) -> tuple[float, float]:
    """Share requests outstanding among processes; returns requests a second and p50 in milliseconds."""
    processes = min(processes, outstanding)
    command = [sys.executable, "-m", __name__, address, str(payloads)]
    command += [str(outstanding // processes), str(seconds)]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    answers = []
    for each in running:
        output, _ = each.communicate(timeout=2 * TIMEOUT_SECONDS)
        if each.returncode != 0:
            raise SystemExit(f"a caller of {address} ended with exit code {each.returncode}")
        answers.append(json.loads(output))
    requests_per_second = sum(len(each["milliseconds"]) / each["seconds"] for each in answers)
    return requests_per_second, median(taken for each in answers for taken in each["milliseconds"])


if __name__ == "__main__":
    main()
