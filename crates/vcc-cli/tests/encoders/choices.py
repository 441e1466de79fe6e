"""What a random encoder may look like: the choices, the first of each the plainest, and how they are drawn."""

import numpy as np

OPTIONS = {
    # sizes
    "blocks": (2, 1, 3),
    "weights": ("own", "shared"),
    "channels": (16, 24, 32),
    "heads": (4, 1, 2, 8),
    "feedforward": (2, 1, 3),
    "batch": (None, 1, 3),
    "length": (None, "number", "channels", "heads", "head_size", "feedforward", "batch"),
    # how it is written
    "opset": (17, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21),
    "dtype": ("f32", "f16"),
    "constants": ("initializers", "nodes", "inputs"),
    "reshape": ("minus_one", "sizes", "zero", "features", "mixed"),
    "size": ("scalar", "vector", "slice", "attributes", "cast", "mixed"),
    "source": ("value", "root", "literal", "mixed"),
    "root": ("input", "block"),
    "noise": ("none", "identity", "dropout", "cast", "chain", "mixed"),
    "function": ("none", "feedforward", "attention", "block", "nested"),
    # the stream
    "layout": ("BND", "NBD", "BDN", "FD"),
    "attention_layout": ("same", "BND", "NBD"),
    "embedding": ("input", "ids", "ids_types", "projected", "patches", "strided"),
    "absolute": ("none", "gathered", "sliced", "computed", "given"),
    "order": ("pre", "post", "sandwich", "parallel", "one_norm"),
    "residual": ("plain", "swapped", "scaled", "layer_scale", "gated"),
    "norm": ("layer", "decomposed", "rms", "batch", "none"),
    "norm_form": ("pow_sqrt_div", "mul_reciprocal", "f32"),
    "activation": ("relu", "erf", "tanh", "silu", "quick", "elu", "squared", "operator"),
    "gate": ("none", "split", "two", "experts"),
    "linear": ("matmul", "swapped", "gemm", "einsum", "transposed", "int8", "conv", "no_bias"),
    # the attention
    "project": ("three", "split", "slice", "gather", "heads_first"),
    "key_heads": ("all", "one", "half", "repeated"),
    "split_heads": ("transposed", "merged", "sequence_merged"),
    "product": ("matmul", "einsum", "transposed_scores"),
    "scale": ("scores", "divide", "query", "both", "none", "shape"),
    "normalised": ("none", "queries_keys", "cosine"),
    "softcap": ("none", "tanh"),
    "softmax": ("operator", "decomposed", "f32", "log"),
    "after": ("none", "dropout", "is_nan", "gate", "scaled"),
    "mask": ("none", "given"),
    "mask_type": ("i64", "f32", "bool", "i32"),
    "mask_shape": ("BN", "1N", "N", "lengths", "segments", "ids", "bias"),
    "mask_form": ("sub_mul", "where", "fill", "fill_not", "and", "query_key", "log", "weights"),
    "mask_spread": ("none", "query", "heads", "cut", "if"),
    "mask_value": (-1e4, -1e9, "lowest", "-inf"),
    "relative": ("none", "alibi", "alibi_key", "buckets", "table", "table_index", "shaw", "gather_elements", "learned"),
    "rotary": ("none", "half", "interleaved", "einsum_angles", "partial"),
    "rotary_from": ("computed", "table", "gathered", "given"),
    "indices": ("range", "table", "nonzero", "cumsum"),
    "built": ("once", "each"),
    # the outputs
    "head": ("stream", "cls", "mean", "logits", "two", "max", "tokens_and_cls"),
    "hidden_states": (False, True),
    "towers": (1, 2),
    # how it is converted
    "vip": ("first:1", "first:5", "last:3", "input:vip", "first:2+last:2"),
    "ladder": ("16,1", "4,1", "8,4,1"),
    "modes": ("vcc", "local", "local_first", "local_last", "full_first", "full_last"),
    "reselect": (1, 2, 3),
    "budget": ("fixed", "runtime"),
    "device": ("cpu", "cuda"),
    # further ones of how it is written, so that a seed draws what it drew before
    "batch_of_one": ("reshaped", "squeezed"),
}

PLAIN = {name: options[0] for name, options in OPTIONS.items()}


# What is open: choices that are not drawn together, as sound encoders with them are refused or fail as yet; and how the example
# fails that has the first of the options each, and the further choices. An example that passes must leave this list.
KNOWN = (
    ({"layout": ("FD",), "blocks": (1,)}, {}, "REFUSED R-AXES"),
    ({"layout": ("FD",), "embedding": ("strided", "patches")}, {}, "REFUSED R-AXES"),
    # A fixed length that is also how often each head of keys is repeated: an axis of that size is taken for tokens, and the block refused.
    ({"length": ("head_size",), "channels": (16,), "heads": (8,), "key_heads": ("half",)}, {}, "REFUSED R-AXES"),
    ({"length": ("heads",), "heads": (2,), "key_heads": ("half",)}, {}, "REFUSED R-AXES"),
    ({"key_heads": ("half",), "heads": (2,), "length": ("heads",), "split_heads": ("sequence_merged",)}, {}, "EXIT"),
    # ONNX Runtime crashes while loading the original (its issue 28392).
    ({"dtype": ("f16",), "layout": ("NBD",), "attention_layout": ("BND",)}, {}, "CRASH"),
    ({"dtype": ("f16",), "layout": ("NBD",), "product": ("einsum",)}, {"head": "logits"}, "CRASH"),
)

# What was wrong once, in the conversion or in how it was checked, whatever else is drawn.
ONCE = (
    {"layout": "NBD", "modes": "local"},
    {"dtype": "f16", "norm": "decomposed"},
    {"constants": "inputs", "relative": "learned"},
    {"mask": "given", "mask_shape": "lengths", "mask_form": "and"},
    {"mask": "given", "mask_shape": "lengths", "mask_form": "and", "layout": "NBD"},
    {"mask": "given", "mask_form": "query_key", "mask_value": "-inf", "head": "tokens_and_cls"},
    {"mask": "given", "head": "cls"},
    {"batch": 1, "layout": "NBD", "linear": "gemm", "modes": "local"},
    {"batch": 1, "layout": "NBD", "linear": "gemm", "modes": "local", "batch_of_one": "squeezed"},
    {"batch": 1, "linear": "gemm", "modes": "local", "batch_of_one": "squeezed"},
)


def draw(seed):
    """A vector of choices; some seeds give nearly plain encoders, others wild ones."""
    random = np.random.default_rng(seed)
    wildness = random.uniform(0.15, 0.7)
    picked = {}
    for name, options in OPTIONS.items():
        wild = random.uniform() < wildness
        picked[name] = options[random.integers(len(options))] if wild else options[0]
    return picked


def avoid(choices, combinations):
    """The same, with the first choice of every such combination made plain."""
    for combination in combinations:
        if all(choices[name] in options for name, options in combination.items()):
            name = next(iter(combination))
            choices = choices | {name: PLAIN[name]}
    return choices


def written(choices):
    return " ".join(f"{name}={value}" for name, value in unlike_plain(choices).items()) or "plain"


def parse(text):
    """The choices of 'name=value name=value', without those left out."""
    items = [] if text == "plain" else [item.partition("=") for item in text.split()]
    return {name: next(option for option in OPTIONS[name] if str(option) == value) for name, _, value in items}


def unlike_plain(choices):
    """The choices that make this encoder what it is."""
    return {name: value for name, value in choices.items() if value != PLAIN[name]}


def mixed(choices, name):
    """One option, or for 'mixed' all of them, to be picked from anew at every place."""
    value = choices[name]
    return tuple(o for o in OPTIONS[name] if o != "mixed") if value == "mixed" else value
