"""A real three-stage ONNX model of tokens, whose stages all take the attention mask.

A row is 6 token ids and a mask of 6 numbers, which is 1 for each token that counts. Token `3 * depth + label`
adds to the logit of `label` at the exit of that depth and at later ones. The last token adds nothing. So a
test knows the answers of its rows. Every stage needs the mask, because without it every token would count.

`publish` writes a version with attached exits: without labels, with numbers as classes. `publish_table`
writes a model of one FP32 input, which is a feature of every stage.

Shapes: `T` tokens of a row, `V` known tokens, `B` rows, `K` classes, `E` exits.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from serving.datatypes import DTYPES, Datatype
from serving.repository.manifest import (
    AttachedTo,
    ConfidenceShares,
    Manifest,
    TensorSpec,
)
from tests.serving import scripted_model
from tests.serving.scripted_model import STAGES

TOKENS, CLASSES = 6, 3
KNOWN_TOKENS = STAGES * CLASSES + 1
SILENT = KNOWN_TOKENS - 1
"""The token that adds nothing at any exit."""
UNKNOWN = KNOWN_TOKENS
"""A token that makes stage 0 raise."""
SAYS = 5.0
"""The number that a token adds to the logit of its label."""
COLUMNS = 3
NAME, BOOL_MASKED, TABLE = "tokens", "tokens-bool-masked", "table"
"""Names of the model, of the model with a BOOL mask, and of the table model."""

_ONNX_TYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "FP32": "float",
    "FP64": "double",
}
_HEADER = '<ir_version: 10, opset_import: ["" : 20]>'
_FIRST = """{header}
stage (int64[batch,6] token_ids, {mask}[batch,6] attention_mask) => ({outputs})
<float[10,10] embedding, float[10,3] says> {{
  words = Gather <axis = 0> (embedding, token_ids)
  mask = Identity (attention_mask)
  {head}
}}"""
_NEXT = """{header}
stage (int64[batch] rows, float[slots,6,10] words_{before}, {mask}[slots,6] attention_mask_{before})
  => ({outputs})
<float[10,3] says> {{
  words = Gather <axis = 0> (words_{before}, rows)
  mask = Gather <axis = 0> (attention_mask_{before}, rows)
  {head}
}}"""
_HEAD = """
  each = MatMul (words, says)
  counts = Cast <to = 1> (mask)
  last = Constant <value_ints = [2]> ()
  column = Unsqueeze (counts, last)
  counted = Mul (each, column)
  tokens = Constant <value_ints = [1]> ()
  logits = ReduceSum <keepdims = 0> (counted, tokens)
"""
_TABLE = """{header}
stage ({inputs}) => ({outputs})
<float[3,3] says> {{
  values = {values}
  logits = MatMul (values, says)
  {features}
}}"""


def says(exit_number: int) -> NDArray[np.float32]:
    """Return the number that each token adds to each logit at an exit: [V, K]."""
    says_VK = np.zeros((KNOWN_TOKENS, CLASSES), np.float32)
    for token in range((exit_number + 1) * CLASSES):
        says_VK[token, token % CLASSES] = SAYS
    return says_VK


def token(label: int, depth: int) -> int:
    """Return the token that adds to a label's logit from the exit of this depth on."""
    return depth * CLASSES + label


def token_ids(*rows: Sequence[int]) -> NDArray[np.int64]:
    """Return rows of tokens [B, T], padded with SILENT."""
    return np.array([[*row, *[SILENT] * (TOKENS - len(row))] for row in rows], np.int64)


def mask(*rows: Sequence[int], datatype: Datatype = "INT64") -> NDArray[np.generic]:
    """Return the masks of rows [B, T]. rows: the positions of the tokens that count."""
    mask_BT = np.zeros((len(rows), TOKENS), DTYPES[datatype])
    for number, positions in enumerate(rows):
        mask_BT[number, list(positions)] = 1
    return mask_BT


def logits(token_ids_BT: NDArray[np.int64], mask_BT: NDArray[np.generic]) -> NDArray[np.float32]:
    """Compute every exit's logits in NumPy: [E, B, K]."""
    counts_BT1 = mask_BT.astype(np.float32)[:, :, np.newaxis]
    return np.stack([(says(exit_)[token_ids_BT] * counts_BT1).sum(axis=1) for exit_ in range(STAGES)])


def leaves(logits_EBK: NDArray[np.float32], threshold: float) -> tuple[list[int], list[int]]:
    """Compute each row's label and exit under one threshold for all early exits."""
    powers = np.exp(logits_EBK.astype(np.float64))
    confidence_EB = (powers / powers.sum(axis=2, keepdims=True)).max(axis=2)
    confidence_EB[-1] = np.inf
    exit_B = (confidence_EB >= threshold).argmax(axis=0)
    label_B = logits_EBK[exit_B, np.arange(len(exit_B))].argmax(axis=1)
    return label_B.tolist(), exit_B.tolist()


ROWS_OF_TOKENS: Mapping[str, NDArray[np.generic]] = {
    "token_ids": token_ids([token(1, 0)], [token(0, 1), token(2, 0)]),
    "attention_mask": mask([0], [0], datatype="BOOL"),
}
"""Rows for BOOL_MASKED that are answered 1 and 0, and that leave at exits 0 and 1."""


def publish(root: Path, name: str = NAME, version: int = 1, *, mask_datatype: Datatype = "INT64") -> Path:
    """Write a version of the token model into a repository and return its folder."""
    known = TensorSpec(name="token_ids", datatype="INT64", shape=(-1, TOKENS))
    counts = TensorSpec(name="attention_mask", datatype=mask_datatype, shape=(-1, TOKENS))
    features = [
        (
            TensorSpec(name=f"words_{number}", datatype="FP32", shape=(-1, TOKENS, KNOWN_TOKENS)),
            counts.model_copy(update={"name": f"attention_mask_{number}"}),
        )
        for number in range(STAGES - 1)
    ]
    models = [_token_stage(number, _ONNX_TYPES[mask_datatype]) for number in range(STAGES)]
    return _write(root / name / str(version), models, (known, counts), features)


def publish_table(root: Path, name: str = TABLE, version: int = 1) -> Path:
    """Write a version of the table model into a repository and return its folder."""
    columns = TensorSpec(name="columns", datatype="FP32", shape=(-1, COLUMNS))
    features = [(columns.model_copy(update={"name": f"columns_{number}"}),) for number in range(STAGES - 1)]
    return _write(
        root / name / str(version), [_table_stage(number) for number in range(STAGES)], (columns,), features
    )


def table_logits(columns_BC: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute every exit's logits of the table model in NumPy: [E, B, K]."""
    return np.stack([columns_BC * _weight(number) for number in range(STAGES)])


def _weight(exit_number: int) -> np.float32:
    """Return the weight of an exit of the table model. Deeper exits have higher confidence."""
    return np.float32(1 + exit_number)


def _token_stage(number: int, mask_type: str) -> onnx.ModelProto:
    last = number == STAGES - 1
    outputs, head = "float[batch,3] logits", _HEAD
    if not last:
        outputs += f", float[batch,6,10] words_{number}, {mask_type}[batch,6] attention_mask_{number}"
        head += f"  words_{number} = Identity (words)\n  attention_mask_{number} = Identity (mask)\n"
    text = (_FIRST if number == 0 else _NEXT).format(
        header=_HEADER, mask=mask_type, before=number - 1, outputs=outputs, head=head
    )
    weights = {"says": says(number)}
    if number == 0:
        weights["embedding"] = np.eye(KNOWN_TOKENS, dtype=np.float32)
    return _with_weights(text, weights)


def _table_stage(number: int) -> onnx.ModelProto:
    last, before = number == STAGES - 1, number - 1
    inputs = f"int64[batch] rows, float[slots,3] columns_{before}"
    text = _TABLE.format(
        header=_HEADER,
        inputs="float[batch,3] columns" if number == 0 else inputs,
        values="Identity (columns)" if number == 0 else f"Gather <axis = 0> (columns_{before}, rows)",
        outputs="float[batch,3] logits" + ("" if last else f", float[batch,3] columns_{number}"),
        features="" if last else f"columns_{number} = Identity (values)",
    )
    return _with_weights(text, {"says": _weight(number) * np.eye(COLUMNS, dtype=np.float32)})


def _with_weights(text: str, weights: dict[str, NDArray[np.float32]]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    del model.graph.value_info[:]
    for name, values in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


def _write(
    folder: Path,
    models: Sequence[onnx.ModelProto],
    inputs: tuple[TensorSpec, ...],
    features: Sequence[tuple[TensorSpec, ...]],
) -> Path:
    folder.mkdir(parents=True)
    for number, model in enumerate(models):
        onnx.save(model, folder / f"stage-{number}.onnx")
    manifest = _manifest(folder, inputs, features)
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


def _manifest(
    folder: Path, inputs: tuple[TensorSpec, ...], features: Sequence[tuple[TensorSpec, ...]]
) -> Manifest:
    """Return a manifest of attached exits without labels, with the scripted model's operating points."""
    trained = scripted_model.make_manifest(folder.parent.name, int(folder.name), folder)
    spread = ConfidenceShares(edges=(0.5, 0.9), shares=(0.5, 0.0, 0.5))
    unlabelled = {"accuracy": None, "expected_calibration_error": None, "confidence": spread}
    attached_to = AttachedTo(
        file=f"{folder.parent.name}.onnx",
        sha256="0" * 64,
        logits="logits",
        cuts=tuple(f"words_{number}" for number in range(STAGES - 1)),
        options={"exits": STAGES},
        rows="The figures are of rows that must not have been trained on.",
    )
    described = trained.model_copy(
        update={
            "labels": tuple(str(number) for number in range(CLASSES)),
            "inputs": inputs,
            "stages": tuple(
                stage.model_copy(update={"features": tensors})
                for stage, tensors in zip(trained.stages, [*features, ()], strict=True)
            ),
            "exits": tuple(each.model_copy(update=unlabelled) for each in trained.exits),
            "operating_points": {
                name: point.model_copy(update={"accuracy": None})
                for name, point in trained.operating_points.items()
            },
            "pareto_path": trained.pareto_path.model_copy(
                update={
                    "points": tuple(
                        row.model_copy(update={"accuracy_loss": None}) for row in trained.pareto_path.points
                    )
                }
            ),
            "provenance": trained.provenance.model_copy(update={"recipe": {}, "attached_to": attached_to}),
        }
    )
    return Manifest.model_validate_json(described.model_dump_json())
