#!/usr/bin/env python3
"""Exports small random-weight encoders with TensorFlow and tf2onnx.

    python -m venv target/tensorflow
    target/tensorflow/bin/pip install tensorflow-cpu==2.21.0 tf2onnx==1.17.0 numpy==1.26.4
    target/tensorflow/bin/python tools/export/tensorflow_models.py -o target/exported

keras__tf13, keras__tf17  Keras layers: an Einsum per projection, norms by GlobalAveragePool
flat__tf13                tokens of all batch rows in one axis between the blocks, as in the first BERT
"""

import argparse
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf  # noqa: E402
import tf2onnx  # noqa: E402
from tensorflow import keras  # noqa: E402

VOCABULARY, LONGEST, CHANNELS, HEADS, HIDDEN, BLOCKS = 120, 256, 32, 4, 64, 2
SIZE = CHANNELS // HEADS


def gelu(x):
    """By tanh: tf2onnx has no operator for TensorFlow's exact form."""
    return tf.nn.gelu(x, approximate=True)


class KerasBlock(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.attention = keras.layers.MultiHeadAttention(HEADS, SIZE)
        self.feed = [keras.layers.Dense(HIDDEN, activation=gelu), keras.layers.Dense(CHANNELS)]
        self.norms = [keras.layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]

    def call(self, x, mask):
        x = self.norms[0](x + self.attention(x, x, attention_mask=mask))
        return self.norms[1](x + self.feed[1](self.feed[0](x)))


class Keras(tf.Module):
    def __init__(self):
        super().__init__()
        self.words = keras.layers.Embedding(VOCABULARY, CHANNELS)
        self.places = keras.layers.Embedding(LONGEST, CHANNELS)
        self.blocks = [KerasBlock() for _ in range(BLOCKS)]

    def __call__(self, ids, mask):
        x = self.words(ids) + self.places(tf.range(tf.shape(ids)[1]))[None]
        seen = tf.cast(mask, tf.bool)[:, None, :]
        for block in self.blocks:
            x = block(x, seen)
        return {"last": x, "pooled": tf.tanh(x[:, 0])}


class Flat(tf.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = self.table(VOCABULARY, CHANNELS), self.table(LONGEST, CHANNELS)
        shapes = {name: (CHANNELS, CHANNELS) for name in "qkvo"} | {"up": (CHANNELS, HIDDEN), "down": (HIDDEN, CHANNELS)}
        self.blocks = [{name: self.table(*shape) for name, shape in shapes.items()} for _ in range(BLOCKS)]
        self.norms = [keras.layers.LayerNormalization(epsilon=1e-12) for _ in range(2 * BLOCKS)]

    @staticmethod
    def table(*shape):
        return tf.Variable(tf.random.normal(shape) * 0.2)

    def __call__(self, ids, mask):
        batch, n = tf.shape(ids)[0], tf.shape(ids)[1]
        x = tf.gather(self.words, ids) + tf.gather(self.places, tf.range(n))[None]
        x = tf.reshape(x, [-1, CHANNELS])
        blocked = (1.0 - tf.cast(mask[:, None, None, :], tf.float32)) * -1e4

        def heads(x, weights):
            return tf.transpose(tf.reshape(tf.matmul(x, weights), [batch, n, HEADS, SIZE]), [0, 2, 1, 3])

        for i, block in enumerate(self.blocks):
            q, k, v = (heads(x, block[name]) for name in "qkv")
            weights = tf.nn.softmax(tf.matmul(q, k, transpose_b=True) * SIZE**-0.5 + blocked)
            y = tf.reshape(tf.transpose(tf.matmul(weights, v), [0, 2, 1, 3]), [batch * n, CHANNELS])
            x = self.norms[2 * i](x + tf.matmul(y, block["o"]))
            x = self.norms[2 * i + 1](x + tf.matmul(gelu(tf.matmul(x, block["up"])), block["down"]))
        return {"last": tf.reshape(x, [batch, n, CHANNELS])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", required=True)
    folder = parser.parse_args().output
    os.makedirs(folder, exist_ok=True)
    tokens = [tf.TensorSpec([None, None], tf.int64, name=name) for name in ("input_ids", "attention_mask")]
    for name, module, opset in (("keras", Keras, 13), ("keras", Keras, 17), ("flat", Flat, 13)):
        tf.random.set_seed(0)
        keras.utils.set_random_seed(0)
        model = module()
        model(tf.ones([2, 5], tf.int64), tf.ones([2, 5], tf.int64))
        function = tf.function(model.__call__, input_signature=tokens)
        path = os.path.join(folder, f"{name}__tf{opset}.onnx")
        tf2onnx.convert.from_function(function, input_signature=tokens, opset=opset, output_path=path)


if __name__ == "__main__":
    main()
