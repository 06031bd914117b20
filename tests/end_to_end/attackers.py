"""Helpers for attacks on certificates: rows whose exits disagree, callers, and the state of the server."""

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray

from serving.api.tensors import decode_outputs
from serving.api.wire import INFERENCE_SERVICE, inference
from serving.client import Client
from tests.end_to_end.server_process import ServerProcess
from tests.serving.live_server import eventually
from tests.serving.scripted_model import row

MODEL = "scripted"
POINT = "balanced"
BROKEN = f"{MODEL}/1/{POINT}"
REQUEST_ROWS = 8
ALL_SAMPLED = {"monitor": {"shadow_share": 1.0}}
REVOCATIONS_FILE = "revocations.json"
LOCK_FILE = "revocations.lock"

Images = NDArray[np.uint8]


def mistaken(rows: int, start: int = 0) -> Images:
    """Return distinct rows that leave at exit 0 with label 1, while the final exit's label is 0.

    The margins at exits 0 and 1 number the rows: any large one at exit 0 leaves, and none reaches exit 1.
    """
    numbers = range(start, start + rows)
    return np.stack([row(1, 5 + number // 256 / 10, number % 256 / 10, 0) for number in numbers])


class Caller:
    """A caller of the scripted model, with its own metadata and parameters."""

    def __init__(self, address: str, *metadata: tuple[str, str], model: str = MODEL) -> None:
        self._channel = grpc.insecure_channel(address)
        self._infer = self._channel.unary_unary(
            f"/{INFERENCE_SERVICE}/ModelInfer", response_deserializer=inference.ModelInferResponse.FromString
        )
        self._metadata, self._model = metadata, model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def send(self, images: Images, **parameters: str | bool) -> list[int]:
        """Send all rows, REQUEST_ROWS per request; return the exits at which they left."""
        exits: list[int] = []
        for start in range(0, len(images), REQUEST_ROWS):
            sent = images[start : start + REQUEST_ROWS]
            request = inference.ModelInferRequest(model_name=self._model, raw_input_contents=[sent.tobytes()])
            request.inputs.add(name="image", datatype="UINT8", shape=sent.shape)
            for key, value in parameters.items():
                kind = "bool_param" if isinstance(value, bool) else "string_param"
                setattr(request.parameters[key], kind, value)
            answer = self._infer(request.SerializeToString(), metadata=self._metadata, timeout=30)
            exits += decode_outputs(answer)["exit"].tolist()
        return exits


def is_revoked(client: Client, model: str = MODEL, point: str = POINT, version: str = "") -> bool:
    """Return whether a point is revoked."""
    return client.points_in_force(model, version)[point].revoked


def are_counted(client: Client, rows: int, model: str = MODEL) -> bool:
    """Wait until this many sampled rows are counted; return False if not, or if the point is revoked."""

    def counted() -> bool:
        point = client.points_in_force(model)[POINT]
        return point.revoked or point.shadow_agreed + point.shadow_differed >= rows

    return eventually(counted) and not is_revoked(client, model)


def break_certificate(client: Client, model: str = MODEL, point: str = POINT) -> None:
    """Send rows that differ until a point is revoked."""
    sent = 0

    def revoked() -> bool:
        nonlocal sent
        client.predict(model, mistaken(REQUEST_ROWS, sent), operating_point=point)
        sent += REQUEST_ROWS
        return is_revoked(client, model, point)

    assert eventually(revoked)


def entries(state_dir: Path) -> list[dict[str, Any]]:
    """Return the entries of a state folder's file; none if it does not exist."""
    path = state_dir / REVOCATIONS_FILE
    if not path.exists():
        return []
    revocations: list[dict[str, Any]] = json.loads(path.read_text())["revocations"]
    return revocations


def in_file(state_dir: Path) -> list[str]:
    """Return the sorted scopes that a state folder has revoked and not reinstated."""
    scopes = [
        (each["model"], each["version"], each["operating_point"])
        for each in entries(state_dir)
        if each.get("reinstated") is None
    ]
    return sorted("/".join(str(part) for part in scope if part is not None) for scope in scopes)


def are_in_file(state_dir: Path, scopes: Sequence[str]) -> bool:
    """Wait until a state folder has exactly these scopes revoked."""
    return eventually(lambda: in_file(state_dir) == sorted(scopes))


def reinstatements(server: ServerProcess) -> list[str]:
    """Return the log lines of reinstatements."""
    return [line for line in server.log() if "reinstated" in line]


@contextmanager
def held_lock(state_dir: Path) -> Iterator[None]:
    """Hold the lock of a state folder, like another process that hangs."""
    with (state_dir / LOCK_FILE).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
