"""The measuring stick: a server in Python that does nothing but the work, at one operating point.

    python -m bench.serving.rivals.stick VERSION_FOLDER OPERATING_POINT PORT

Decodes the calls that a native front end brings together, joins their rows, runs stage after stage,
answers. No admission, deadlines, cancellation, metrics or certificates: what Offramp is slower by, its own
bookkeeping costs. PERMITS batches run at once, in one thread more; the thread with the receiver role takes
calls, keeps the role while its batches are short, and hands it over before a long one.
"""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from pygrpc_native import EVENT_CALL, NativeGrpcFront

from bench.serving.rivals.protocol import MAX_BATCH_SIZE
from serving.api.model_config import model_config, model_metadata, output_specs
from serving.api.wire import INFERENCE_SERVICE, inference
from serving.datatypes import DTYPES
from serving.repository.repository import PublishedVersion, read_version

PERMITS, MAX_STREAMS = 2, 4096
HAND_OVER_SECONDS = 2e-3
"""A batch expected to take longer is long."""
SMOOTHING = 0.05
"""What the latest batch weighs in the average of seconds a row."""

Call = tuple[int, inference.ModelInferRequest, NDArray[np.uint8]]


class Stick:
    """Sessions, front end and threads."""

    def __init__(self, version: PublishedVersion, operating_point: str, port: int) -> None:
        manifest = version.manifest
        self._name, self._version = manifest.name, str(manifest.version)
        self._row_shape = manifest.inputs[0].row_shape
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        paths = [version.stage_path(number) for number in range(len(manifest.stages))]
        sessions = [onnxruntime.InferenceSession(path, options) for path in paths]
        temperatures = [each.calibration_temperature for each in manifest.exits]
        early = manifest.operating_point(operating_point).thresholds
        thresholds = [*(np.inf if each is None else each for each in early), -1.0]
        features = [*(stage.features[0].name for stage in manifest.stages[:-1]), ""]
        self._stages = list(zip(sessions, temperatures, thresholds, features, strict=True))
        self._outputs = [
            (spec.name, spec.datatype, spec.row_shape, DTYPES[spec.datatype])
            for spec in output_specs(len(manifest.labels))
        ]
        config = model_config(manifest, MAX_BATCH_SIZE, "cpu")
        self._described = {
            "ServerReady": inference.ServerReadyResponse(ready=True),
            "ServerLive": inference.ServerLiveResponse(live=True),
            "ModelReady": inference.ModelReadyResponse(ready=True),
            "ServerMetadata": inference.ServerMetadataResponse(name="stick", version="1"),
            "ModelMetadata": model_metadata(manifest, [manifest.version], ()),
            "ModelConfig": inference.ModelConfigResponse(config=config),
        }
        self._methods = [*self._described, "ModelInfer"]
        methods = [(f"/{INFERENCE_SERVICE}/{method}", False) for method in self._methods]
        self._front = NativeGrpcFront(
            f"127.0.0.1:{port}", methods, io_threads=1, max_concurrent_streams=MAX_STREAMS
        )
        self._role, self._permits = threading.Lock(), threading.Semaphore(PERMITS)
        self._row_seconds = 0.0

    def serve(self) -> None:
        """Serve until killed."""
        self._front.start()
        threads = [threading.Thread(target=self._work) for _ in range(PERMITS + 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self) -> None:
        receives = False
        while True:
            if not receives:
                self._role.acquire()
            calls = self._receive()
            rows = sum(len(images) for *_, images in calls)
            receives = rows * self._row_seconds <= HAND_OVER_SECONDS
            if not receives:
                self._role.release()
            if rows:
                with self._permits:
                    self._run(calls, rows)

    def _receive(self) -> list[Call]:
        calls = list[Call]()
        for kind, number, method, payload, _ in self._front.recv_batch(MAX_BATCH_SIZE) or ():
            if kind == EVENT_CALL and self._methods[method] == "ModelInfer":
                request = inference.ModelInferRequest.FromString(payload or b"")
                images = np.frombuffer(request.raw_input_contents[0], np.uint8)
                calls.append((number, request, images.reshape(-1, *self._row_shape)))
            elif kind == EVENT_CALL:
                self._front.respond(number, self._described[self._methods[method]].SerializeToString())
        return calls

    def _run(self, calls: list[Call], rows: int) -> None:
        began, start = time.perf_counter(), 0
        images = [images for *_, images in calls]
        answers = self._infer(images[0] if len(images) == 1 else np.concatenate(images))
        for (number, request, _), part in zip(calls, images, strict=True):
            response = inference.ModelInferResponse(
                model_name=self._name, model_version=self._version, id=request.id
            )
            for (name, datatype, shape, _), answer in zip(self._outputs, answers, strict=True):
                response.outputs.add(name=name, datatype=datatype, shape=(len(part), *shape))
                response.raw_output_contents.append(answer[start : start + len(part)].tobytes())
            self._front.respond(number, response.SerializeToString())
            start += len(part)
        self._row_seconds += SMOOTHING * ((time.perf_counter() - began) / rows - self._row_seconds)

    def _infer(self, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """Return what each row is answered with: label, confidence, exit, exit reason, probabilities."""
        answers: list[NDArray[Any]] = [
            np.zeros((len(images), *shape), kind) for _, _, shape, kind in self._outputs
        ]
        rows = np.arange(len(images))
        inputs: dict[str, NDArray[Any]] = {"image": images}
        for number, (session, temperature, threshold, feature) in enumerate(self._stages):
            logits, *features = session.run(None, inputs)
            odds = logits / temperature
            odds = np.exp(odds - odds.max(1, keepdims=True))
            odds /= odds.sum(1, keepdims=True)
            confidence = odds.max(1)
            leaves = confidence >= threshold
            at = np.flatnonzero(leaves)
            found = (odds[at].argmax(1), confidence[at], number, not features, odds[at])
            gone = rows[at]
            for answer, of_leaving in zip(answers, found, strict=True):
                answer[gone] = of_leaving
            stays = np.flatnonzero(~leaves)
            if not len(stays):
                break
            rows, inputs = rows[stays], {"rows": stays, feature: features[0]}
        return answers


if __name__ == "__main__":
    Stick(read_version(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])).serve()
