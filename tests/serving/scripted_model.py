"""A real three-stage ONNX model whose rows determine their own answers.

A row is a uint8 image [1, 2, 3] of six pixels. Pixel 0 is the label (0..2). Pixels 1 to 3 are ten times the
margin of that label's logit at exits 0, 1 and 2. Pixels 4 and 5 are the fates of stages 1 and 2: RAISES makes
the stage raise, NAN makes its logits NaN, 0 does nothing. So a test knows the answers of its rows.

Classes K = 3; with margin m the confidence is e^m / (e^m + 2).
"""

import json
import math
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from serving.repository.manifest import (
    FORMAT_VERSION,
    Certificate,
    DatasetProvenance,
    Exit,
    Manifest,
    OperatingPoint,
    ParetoPath,
    ParetoPoint,
    Provenance,
    Stage,
    TensorSpec,
)
from serving.repository.repository import file_digest

STAGES = 3
RAISES = 254
NAN = 253
MULTIPLY_ADDS = (10, 20, 70)
LABELS = ("ant", "bee", "cat")
IMAGE = TensorSpec(name="image", datatype="UINT8", shape=(-1, 1, 2, 3))

_HEADER = '<ir_version: 10, opset_import: ["" : 20]>'
_LOGITS = """
  label_index = Constant <value_ints = [0]> ()
  margin_index = Constant <value_ints = [{margin}]> ()
  label_column = Gather <axis = 1> (pixels, label_index)
  margin_column = Gather <axis = 1> (pixels, margin_index)
  classes = Constant <value_floats = [0.0, 1.0, 2.0]> ()
  is_label = Equal (label_column, classes)
  one_hot = Cast <to = 1> (is_label)
  ten = Constant <value_float = 10.0> ()
  margin = Div (margin_column, ten)
  scripted = Mul (one_hot, margin)
"""
_FIRST = """{header}
stage (uint8[batch,1,2,3] image) => (float[batch,3] logits, float[batch,6] features_0) {{
  flat = Constant <value_ints = [-1, 6]> ()
  rows_of_pixels = Reshape (image, flat)
  pixels = Cast <to = 1> (rows_of_pixels)
  {logits}
  logits = Identity (scripted)
  features_0 = Identity (pixels)
}}"""
_NEXT = """{header}
stage (int64[batch] rows, float[slots,6] features_{before}) => ({outputs})
<float[254] fates> {{
  pixels = Gather <axis = 0> (features_{before}, rows)
  {logits}
  fate_index = Constant <value_ints = [{fate}]> ()
  fate_column = Gather <axis = 1> (pixels, fate_index)
  fate = Cast <to = 7> (fate_column)
  doom = Gather <axis = 0> (fates, fate)
  logits = Add (scripted, doom)
  {features}
}}"""


def row(label: int, *margins: float, fates: tuple[int, int] = (0, 0)) -> NDArray[np.uint8]:
    """Return one row. margins: one for each exit. fates: those of stages 1 and 2."""
    tenths = [round(10 * margin) for margin in margins]
    return np.array([label, *tenths, *fates], dtype=np.uint8).reshape(1, 2, 3)


EASY, MIDDLE, HARD = row(0, 5, 5, 5), row(1, 0.5, 5, 5), row(2, 0.5, 0.5, 0.5)
"""Rows that are answered 0, 1 and 2, and that leave at exits 0, 1 and 2 at point 'balanced'."""


def confidence(margin: float) -> float:
    """Return the confidence of a row with this margin."""
    return math.exp(margin) / (math.exp(margin) + 2)


def _stage_model(number: int) -> onnx.ModelProto:
    logits = _LOGITS.format(margin=1 + number)
    if number == 0:
        return onnx.parser.parse_model(_FIRST.format(header=_HEADER, logits=logits))
    last = number == STAGES - 1
    text = _NEXT.format(
        header=_HEADER,
        before=number - 1,
        logits=logits,
        fate=3 + number,
        outputs="float[batch,3] logits" + ("" if last else f", float[batch,6] features_{number}"),
        features="" if last else f"features_{number} = Identity (pixels)",
    )
    model = onnx.parser.parse_model(text)
    fates = np.zeros(254, dtype=np.float32)  # an index of 254 lies outside: Gather raises
    fates[NAN] = np.nan
    del model.graph.value_info[:]
    model.graph.initializer.append(onnx.numpy_helper.from_array(fates, "fates"))
    return model


def make_manifest(name: str, version: int, folder: Path, **changes: object) -> Manifest:
    """Return the manifest of the scripted model. Thresholds: 0.5 for 'fast', 0.9 for 'balanced'."""
    stages = tuple(
        Stage(
            file=f"stage-{number}.onnx",
            sha256=file_digest(folder / f"stage-{number}.onnx"),
            multiply_adds=MULTIPLY_ADDS[number],
            parameters=254 if number else 0,
            features=()
            if number == STAGES - 1
            else (TensorSpec(name=f"features_{number}", datatype="FP32", shape=(-1, 6)),),
        )
        for number in range(STAGES)
    )
    points = {"exact": (None, None), "balanced": (0.9, 0.9), "fast": (0.5, 0.5)}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        version=version,
        created="2026-01-01T00:00:00Z",
        labels=LABELS,
        inputs=(IMAGE,),
        confidence="max_probability",
        stages=stages,
        exits=tuple(
            Exit(
                calibration_temperature=1.0, accuracy=0.9, expected_calibration_error=0.0, split="test", n=10
            )
            for _ in stages
        ),
        operating_points={point: _operating_point(thresholds) for point, thresholds in points.items()},
        default_operating_point="balanced",
        pareto_path=ParetoPath(
            split="tune",
            n=10,
            points=(
                ParetoPoint(
                    thresholds=(None, None), accuracy_loss=0.0, disagreement=0.0, multiply_adds_share=1.0
                ),
            ),
        ),
        provenance=Provenance(
            recipe={"model": name},
            seed=0,
            generation=0,
            dataset=DatasetProvenance(
                name="scripted", digest="0" * 64, split_seed=0, split_digests={}, test_rows=None
            ),
            packages={},
        ),
    )
    return manifest.model_copy(update=changes)


def _operating_point(thresholds: tuple[float | None, ...]) -> OperatingPoint:
    certified = any(threshold is not None for threshold in thresholds)
    return OperatingPoint(
        thresholds=thresholds,
        accuracy=0.9,
        disagreement=0.0,
        multiply_adds_share=1.0,
        exit_shares=(0.0, 0.0, 1.0),
        split="test",
        n=10,
        certificate=Certificate(epsilon=0.1, delta=0.05, n=10, disagreements=0, method="none")
        if certified
        else None,
    )


def publish(root: Path, name: str = "scripted", version: int = 1) -> Path:
    """Write a version of the scripted model into a repository and return its folder."""
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    for number in range(STAGES):
        onnx.save(_stage_model(number), folder / f"stage-{number}.onnx")
    (folder / "manifest.json").write_text(make_manifest(name, version, folder).to_json())
    return folder


def edit(folder: Path, **changes: object) -> None:
    """Change fields of a published version's manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
