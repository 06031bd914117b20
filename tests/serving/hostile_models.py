"""The scripted model with a first stage that never ends or that takes too much memory."""

from pathlib import Path

import numpy as np
import onnx

from tests.serving.scripted_model import make_manifest, publish

_STAGE = """<ir_version: 10, opset_import: ["" : 20]>
stage (uint8[batch,1,2,3] image) => (float[batch,3] logits, float[batch,6] features_0) {{
  flat = Constant <value_ints = [-1, 6]> ()
  rows_of_pixels = Reshape (image, flat)
  features_0 = Cast <to = 1> (rows_of_pixels)
  {deed}
  three = Constant <value_ints = [0, 1, 2]> ()
  some_pixels = Gather <axis = 1> (features_0, three)
  logits = Add (some_pixels, outcome)
}}"""
_NEVER_ENDS = """
  trips = Constant <value_int = 9223372036854775807> ()
  go_on = Constant <value_int = 1> ()
  on_and_on = Cast <to = 9> (go_on)
  one = Constant <value_float = 1.0> ()
  outcome = Loop (trips, on_and_on, one) <body = turn
    (int64 number, bool on, float before) => (bool on_out, float after) {
      on_out = Identity (on)
      after = Mul (before, before)
  }>
"""
_TAKES_MEMORY = """
  size = Constant <value_ints = [{values}]> ()
  {much} = ConstantOfShape (size)
  outcome = ReduceMax <keepdims = 0> ({much})
"""


def publish_endless(root: Path, name: str = "endless", version: int = 1) -> Path:
    """Write a version whose first stage runs forever."""
    return _publish(root, name, version, _NEVER_ENDS)


def publish_hungry(root: Path, memory_bytes: int, name: str = "hungry", version: int = 1) -> Path:
    """Write a version whose first stage takes `memory_bytes`."""
    values = memory_bytes // np.dtype(np.float32).itemsize
    return _publish(root, name, version, _TAKES_MEMORY.format(values=values, much="much"))


def _publish(root: Path, name: str, version: int, deed: str) -> Path:
    folder = publish(root, name, version)
    model = onnx.parser.parse_model(_STAGE.format(deed=deed))
    del model.graph.value_info[:]
    onnx.save(model, folder / "stage-0.onnx")
    (folder / "manifest.json").write_text(make_manifest(name, version, folder).to_json())
    return folder
