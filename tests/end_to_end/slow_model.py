"""The scripted model with a slow first stage: a pixel sets the number of turns of a loop."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.serving.scripted_model import make_manifest, publish, row

_WEIGHTS = 96
_SLOW = f"""<ir_version: 10, opset_import: ["" : 20]>
stage (uint8[batch,1,2,3] image) => (float[batch,3] logits, float[batch,6] features_0)
<float[{_WEIGHTS},{_WEIGHTS}] weights> {{
  flat = Constant <value_ints = [-1, 6]> ()
  rows_of_pixels = Reshape (image, flat)
  pixels = Cast <to = 1> (rows_of_pixels)
  turn_index = Constant <value_ints = [5]> ()
  turn_column = Gather <axis = 1> (pixels, turn_index)
  slowest = ReduceMax <keepdims = 0> (turn_column)
  thousand = Constant <value_float = 1000.0> ()
  turns = Mul (slowest, thousand)
  trips = Cast <to = 7> (turns)
  go_on = Constant <value_ints = [1]> ()
  one_go = Cast <to = 9> (go_on)
  none = Constant <value_ints = [0]> ()
  squeezed = Squeeze (one_go, none)
  turned = Loop (trips, squeezed, weights) <body = turn
    (int64 number, bool on, float[{_WEIGHTS},{_WEIGHTS}] before) =>
    (bool on_out, float[{_WEIGHTS},{_WEIGHTS}] after) {{
      on_out = Identity (on)
      after = MatMul (before, weights)
  }}>
  total = ReduceMax <keepdims = 0> (turned)
  nothing = Constant <value_float = 0.0> ()
  no_total = Mul (total, nothing)
  three = Constant <value_ints = [0, 1, 2]> ()
  some_pixels = Gather <axis = 1> (pixels, three)
  no_pixels = Mul (some_pixels, nothing)
  logits = Add (no_pixels, no_total)
  features_0 = Identity (pixels)
}}"""


def slow_row(label: int, turns: int) -> NDArray[np.uint8]:
    """Return a row that runs to the final exit and takes this many thousand turns in stage 0."""
    return row(label, 0.0, 0.0, 5.0, fates=(0, turns))


def publish_slow(root: Path, name: str = "slow", version: int = 1) -> Path:
    """Publish a version of the slow model."""
    folder = publish(root, name, version)
    model = onnx.parser.parse_model(_SLOW)
    del model.graph.value_info[:]
    weights = np.eye(_WEIGHTS, dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "weights"))
    onnx.save(model, folder / "stage-0.onnx")
    (folder / "manifest.json").write_text(make_manifest(name, version, folder).to_json())
    return folder
