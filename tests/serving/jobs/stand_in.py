"""A stand-in for `python -m training`, with its command line, events, exit codes and signals. Trains nothing.

The overrides control a run:

    hold_at    epoch after which it waits until it is interrupted
    mistake    message with which it ends before its first event, with exit code 2
    failure    message with which it ends after its first epoch, with exit code 2
    stubborn   whether it ignores SIGTERM and the end of its stdin
    crash      whether it kills itself after its first epoch
    real       whether it publishes a version that a server can load
    diverge    whether its loss is NaN
    message    text of its RunMessage event
    hog        whether a child process allocates 2 GiB after the first epoch

Its checkpoint is the number of epochs done.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GENERATION_STEPS = 4
HOG = "held = [bytearray(2**20) for _ in range(2048)]"
RECIPES = {
    "stand-in": {
        "model": ("string", "stand-in", {}),
        "threads": ("integer", 64, {"minimum": 1, "maximum": 1024}),
        "epochs": ("integer", 3, {"minimum": 1, "maximum": 1000}),
        "hold_at": ("integer", 0, {"minimum": 0}),
        "mistake": ("string", "", {}),
        "failure": ("string", "", {}),
        "message": ("string", "certified", {}),
        "stubborn": ("boolean", False, {}),
        "crash": ("boolean", False, {}),
        "real": ("boolean", False, {}),
        "diverge": ("boolean", False, {}),
        "hog": ("boolean", False, {}),
        "rate": ("number", 0.5, {"exclusive_minimum": 0.0, "maximum": 1.0}),
        "rule": ("string", "kd", {"choices": ["kd", "ban"]}),
        "widths": ("list", [4, 8], {"minimum": 1, "maximum": 64}),
        "share": ("number", None, {"minimum": 0.0, "exclusive_maximum": 1.0, "nullable": True}),
    }
}


def main() -> int:
    options = _options()
    if options.command == "recipes":
        print(json.dumps({"recipes": [_recipe(name, keys) for name, keys in RECIPES.items()]}))
        return 0
    assert options.recipe in RECIPES
    settings = {key: value for key, (_, value, _) in RECIPES[options.recipe].items()}
    settings |= {key: json.loads(value) for key, _, value in (word.partition("=") for word in options.set)}
    if not settings["stubborn"]:
        signal.signal(signal.SIGTERM, _interrupt)
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(f"threads {settings['threads']}, OMP {os.environ['OMP_NUM_THREADS']}", file=sys.stderr)
    if settings["mistake"]:
        print(f"offramp: error: {settings['mistake']}", file=sys.stderr)
        return 2
    _run(options, settings)
    return 0


def _run(options: argparse.Namespace, settings: dict[str, Any]) -> None:
    checkpoint: Path = options.output / "epochs_done"
    options.output.mkdir(exist_ok=options.resume)
    done = int(checkpoint.read_text()) if options.resume and checkpoint.exists() else 0
    emit = _event_writer(options.events)
    epochs = settings["epochs"]
    emit("generation", generation=0, epochs=epochs, epochs_done=done, steps_per_epoch=GENERATION_STEPS)
    for epoch in range(done + 1, epochs + 1):
        steps, left = epochs * GENERATION_STEPS, float(epochs - epoch)
        emit("step", generation=0, step=epoch * GENERATION_STEPS, steps=steps, seconds_left=left)
        checkpoint.write_text(str(epoch))
        figures = {"loss": float("nan") if settings["diverge"] else 1 / epoch, "tune_accuracy": [0.5, 0.75]}
        emit("epoch", generation=0, epochs=epochs, epochs_done=epoch, **figures)
        if settings["failure"]:
            print(f"offramp: error: {settings['failure']}", file=sys.stderr)
            sys.exit(2)
        if settings["crash"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if settings["hog"] and not options.resume:
            subprocess.run([sys.executable, "-c", HOG], check=True)
        while epoch == settings["hold_at"] and not options.resume:
            time.sleep(0.05)
    emit("line", text=settings["message"])
    print(settings["message"])
    folder = _publish(options.model_repository, options.model, real=settings["real"])
    published = {"version": int(folder.name), "chosen_generation": 2, "report": "report.html"}
    emit("published", model=options.model, folder=str(folder), **published)
    print(f"published {folder}")


def _event_writer(path: Path) -> Callable[..., None]:
    """Return a function that appends a numbered event. An incomplete last line is removed first."""
    written = path.read_bytes() if path.exists() else b""
    complete = written[: written.rfind(b"\n") + 1]
    path.write_bytes(complete)
    number = len(complete.splitlines())

    def emit(kind: str, **fields: object) -> None:
        nonlocal number
        number += 1
        with path.open("a") as file:
            file.write(json.dumps({"number": number, "time": time.time(), "kind": kind, **fields}) + "\n")

    return emit


def _publish(root: Path, model: str, *, real: bool) -> Path:
    existing = [int(path.name) for path in (root / model).iterdir()] if (root / model).exists() else []
    version = max(existing, default=0) + 1
    if real:
        sys.path.insert(0, str(Path(__file__).parents[3]))
        from tests.serving import scripted_model

        return scripted_model.publish(root, name=model, version=version)
    folder = root / model / str(version)
    folder.mkdir(parents=True)
    return folder


def _interrupt(*_: object) -> None:
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(130)


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 4096):  # unbuffered: the lock of a buffer aborts the interpreter's exit
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _recipe(name: str, keys: dict[str, Any]) -> dict[str, object]:
    settings = [
        {"key": key, "kind": kind, "default": value, "value": value, "help": f"{key}.", **bounds}
        for key, (kind, value, bounds) in keys.items()
    ]
    return {"name": name, "description": "no training", "needs": "nothing", "settings": settings}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("recipes").add_argument("--json", action="store_true", required=True)
    run = commands.add_parser("run")
    run.add_argument("recipe")
    for name in ("--output", "--model-repository", "--events"):
        run.add_argument(name, type=Path, required=True)
    run.add_argument("--model", required=True)
    run.add_argument("--set", action="append", default=[])
    run.add_argument("--max-memory-bytes", type=int)
    run.add_argument("--stop-with-stdin", action="store_true", required=True)
    run.add_argument("--resume", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
