"""Runs in an installation of the wheel: calls a server with every method of the client, and prints answers.

Arguments: the server's address and its model.
"""

import json
import sys
from importlib import metadata

import numpy as np
from offramp.serving.client import Client  # type: ignore[import-not-found]  # only in the wheel

ROWS = 200
"""More than a request may have, so that the client splits them."""

address, model = sys.argv[1:]
with Client(address) as client:
    description = client.model(model)
    images = np.random.default_rng(0).integers(0, 256, (ROWS, *description.row_shape), dtype=np.uint8)
    answer = client.predict(model, images, operating_point="fast")
    same = client.infer(model, {description.inputs[0].name: images}, operating_point="fast")
    assert (same.label_N == answer.label_N).all()
    answers = {
        "healthy": client.healthy(),
        "points": sorted(client.points_in_force(model)),
        "labels": answer.label_N.tolist(),
        "exits": answer.exit_N.tolist(),
    }
print(json.dumps(answers))
print(
    *(f"{name} {metadata.version(name)}" for name in ("grpcio", "protobuf", "numpy")),
    sep=", ",
    file=sys.stderr,
)
