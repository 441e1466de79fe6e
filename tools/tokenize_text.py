#!/usr/bin/env python3
"""Turns text files into model inputs: an npz with one [1, n] array per input of the model.

    tokenize_text.py --tokenizer tokenizer.json --model model.onnx --length 512 -o inputs.npz README.md docs/*.md

The files are read in the given order and joined; `--rows` takes that many consecutive stretches of text, each of exactly
`--length` tokens with the special tokens of the tokenizer around it.
"""

import argparse
import sys

import numpy as np
import onnx
from tokenizers import Tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="a tokenizer.json")
    parser.add_argument("--model", required=True, help="the model whose graph inputs are to be filled")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()

    tokenizer = Tokenizer.from_file(args.tokenizer)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    text = "\n".join(open(name, encoding="utf-8").read() for name in args.files)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    empty = tokenizer.encode("").ids  # the special tokens alone, e.g. [CLS] [SEP]
    if len(empty) != 2:
        sys.exit(f"{args.tokenizer}: expected one special token before and one after the text, got {len(empty)}")
    body = args.length - 2
    if len(ids) < body * args.rows:
        sys.exit(f"the text has {len(ids)} tokens, {body * args.rows} are needed")
    rows = [[empty[0], *ids[i * body : (i + 1) * body], empty[1]] for i in range(args.rows)]
    input_ids = np.array(rows, dtype=np.int64)

    known = {
        "input_ids": input_ids,
        "attention_mask": np.ones_like(input_ids),
        "token_type_ids": np.zeros_like(input_ids),
    }
    graph = onnx.load(args.model, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    names = [value.name for value in graph.input if value.name not in weights]
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"{args.model}: no text value for the inputs {', '.join(unknown)}")
    np.savez(args.output, **{name: known[name] for name in names})


if __name__ == "__main__":
    main()
