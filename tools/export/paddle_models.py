#!/usr/bin/env python3
"""Exports small random-weight encoders with PaddlePaddle and paddle2onnx: weights in Constant nodes, opset 12.

    python -m venv target/paddle
    target/paddle/bin/pip install paddlepaddle==3.3.1 paddle2onnx==2.1.0 onnx==1.17.0 packaging==26.3 setuptools==65.5.0
    target/paddle/bin/python tools/export/paddle_models.py -o target/exported
"""

import argparse
import os
import tempfile

import paddle
import paddle2onnx
from paddle.static import InputSpec

VOCABULARY, LONGEST, CHANNELS, HEADS, HIDDEN, BLOCKS = 120, 256, 32, 4, 64, 2


class Encoder(paddle.nn.Layer):
    def __init__(self, norm_first):
        super().__init__()
        self.words, self.places = paddle.nn.Embedding(VOCABULARY, CHANNELS), paddle.nn.Embedding(LONGEST, CHANNELS)
        block = paddle.nn.TransformerEncoderLayer(
            CHANNELS, HEADS, HIDDEN, dropout=0.0, activation="gelu", normalize_before=norm_first
        )
        self.encoder = paddle.nn.TransformerEncoder(block, BLOCKS)
        self.pooler = paddle.nn.Linear(CHANNELS, CHANNELS)

    def forward(self, input_ids, attention_mask):
        places = paddle.arange(0, paddle.shape(input_ids)[1], dtype="int64")
        x = self.words(input_ids) + self.places(places).unsqueeze(0)
        blocked = (1.0 - attention_mask.unsqueeze([1, 2]).astype("float32")) * -1e4
        y = self.encoder(x, blocked)
        return y, paddle.tanh(self.pooler(y[:, 0]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", required=True)
    folder = parser.parse_args().output
    os.makedirs(folder, exist_ok=True)
    tokens = [InputSpec([None, None], "int64", name) for name in ("input_ids", "attention_mask")]
    for name, norm_first in (("paddle_post", False), ("paddle_pre", True)):
        paddle.seed(0)
        model = Encoder(norm_first)
        model.eval()
        with tempfile.TemporaryDirectory() as work:
            saved = os.path.join(work, "model")
            paddle.jit.save(paddle.jit.to_static(model, input_spec=tokens, full_graph=True), saved)
            paddle2onnx.export(
                f"{saved}.json", f"{saved}.pdiparams", save_file=os.path.join(folder, f"{name}__pd12.onnx"), opset_version=12
            )


if __name__ == "__main__":
    main()
