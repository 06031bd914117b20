"""Stands for `python -m training`: the same command line, events, exit codes and signals, no training.

What a run does is in its overrides: `hold_at` stops it after an epoch until it is interrupted, `mistake`
ends it with exit code 2 before it begins and `failure` after an epoch, `stubborn` makes it deaf to SIGTERM
and to its stdin, `crash` kills it, `real` publishes a version that a server can serve, `diverge` has a loss
that is NaN, `says` is what it has to say to people, `hog` makes a child process take 2 GiB after an epoch.
It keeps the number of its epochs done as its checkpoint.
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
        "says": ("string", "certified", {}),
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
    tell = _teller(options.events)
    epochs = settings["epochs"]
    tell("generation", generation=0, epochs=epochs, epochs_done=done, steps_per_epoch=GENERATION_STEPS)
    for epoch in range(done + 1, epochs + 1):
        steps, left = epochs * GENERATION_STEPS, float(epochs - epoch)
        tell("step", generation=0, step=epoch * GENERATION_STEPS, steps=steps, seconds_left=left)
        checkpoint.write_text(str(epoch))
        figures = {"loss": float("nan") if settings["diverge"] else 1 / epoch, "tune_accuracy": [0.5, 0.75]}
        tell("epoch", generation=0, epochs=epochs, epochs_done=epoch, **figures)
        if settings["failure"]:
            print(f"offramp: error: {settings['failure']}", file=sys.stderr)
            sys.exit(2)
        if settings["crash"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if settings["hog"] and not options.resume:
            subprocess.run([sys.executable, "-c", HOG], check=True)
        while epoch == settings["hold_at"] and not options.resume:
            time.sleep(0.05)
    tell("line", text=settings["says"])
    print(settings["says"])
    folder = _publish(options.model_repository, options.model, real=settings["real"])
    published = {"version": int(folder.name), "chosen_generation": 2, "report": "report.html"}
    tell("published", model=options.model, folder=str(folder), **published)
    print(f"published {folder}")


def _teller(path: Path) -> Callable[..., None]:
    """Append events, numbered on from those that are there; a torn last line is cut off."""
    written = path.read_bytes() if path.exists() else b""
    whole = written[: written.rfind(b"\n") + 1]
    path.write_bytes(whole)
    number = len(whole.splitlines())

    def tell(kind: str, **fields: object) -> None:
        nonlocal number
        number += 1
        with path.open("a") as file:
            file.write(json.dumps({"number": number, "time": time.time(), "kind": kind, **fields}) + "\n")

    return tell


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
    while os.read(sys.stdin.fileno(), 4096):  # no buffer, whose lock would abort the end of the interpreter
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
