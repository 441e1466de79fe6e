"""Changes to an encoder after which a block may not be converted, and the codes with which it may be refused.

Each is put into one block or all blocks of a random sound encoder. `place`: 'scores' [B, heads, N, N] before the softmax, 'weights'
after it, 'tokens' [B, N, channels] in front of the attention or the feed-forward part, 'exposed' as outputs of the model.
"""

import numpy as np
from onnx import TensorProto

from .attention import LONGEST

CAUSAL = ("R-CAUSAL", "R-MASK-UNDECIDED")
GIVEN = (*CAUSAL, "R-AXES")  # the positions' length agrees with the stream's only when fed
MIXING = ("R-TOKEN-MIXING", "R-BLOCK-LOCAL", "R-UNKNOWN-OP", "R-EXTERNAL", "R-AXES", "R-MANY-ATTENTIONS", "R-UNKNOWN-SHAPE", "R-BAKED-LENGTH")
EXPOSED = ("R-EXPOSED",)
UNSOUND = {}


def unsound(place, codes, since=11):
    def register(make):
        UNSOUND[make.__name__] = (place, codes, since, make)
        return make

    return register


def low(g):
    return -6e4 if g.numpy == np.float16 else -1e9


def fill(g, scores, blocked, value=None):
    return g.op("Where", blocked, g.const(low(g) if value is None else value), scores)


# Later tokens are not seen, in many disguises.


@unsound("scores", CAUSAL)
def causal(g, a, scores):
    return fill(g, scores, g.op("Greater", a.difference(), g.int(0)))


@unsound("scores", CAUSAL)
def anti_causal(g, a, scores):
    return fill(g, scores, g.op("Less", a.difference(), g.int(0)))


@unsound("scores", CAUSAL)
def causal_added(g, a, scores):
    later = g.cast(g.op("Greater", a.difference(), g.int(0)))
    return g.op("Add", scores, g.number(later, "Mul", -1e4))


@unsound("scores", CAUSAL)
def causal_clipped(g, a, scores):
    """No comparison: the distance ahead, cut to 0 .. 1."""
    ahead = g.op("Clip", g.cast(a.difference()), g.const(0.0), g.const(1.0))
    return g.op("Add", scores, g.number(ahead, "Mul", -1e4))


@unsound("scores", CAUSAL)
def causal_growing(g, a, scores):
    """The farther ahead, the lower."""
    ahead = g.op("Relu", g.cast(a.difference()))
    return g.op("Add", scores, g.number(ahead, "Mul", -100.0))


@unsound("scores", CAUSAL, since=14)
def causal_trilu(g, a, scores):
    whole = g.op("Expand", g.const(-1e4), g.shape(("N", "N")))
    return g.op("Add", scores, g.op("Trilu", whole, g.int(1), upper=1))


@unsound("scores", CAUSAL)
def causal_cumsum(g, a, scores):
    """The running sum of an identity is a triangle."""
    same = g.op("Cast", g.op("Equal", a.difference(), g.int(0)), to=TensorProto.FLOAT)
    seen = g.op("Cast", g.op("CumSum", same, g.int(0)), to=TensorProto.BOOL)
    return g.op("Where", seen, scores, g.const(low(g)))


@unsound("scores", CAUSAL)
def causal_table(g, a, scores):
    table = g.const(np.triu(np.full((LONGEST, LONGEST), -1e4), 1))
    cut = g.slice(g.slice(table, 0, g.size("N"), 0), 0, g.size("N"), 1)
    return g.op("Add", scores, cut)


@unsound("scores", CAUSAL)
def causal_gathered(g, a, scores):
    table = g.const(np.tri(LONGEST, dtype=bool), np.bool_)
    p = a.indices()
    seen = g.op("Gather", g.op("Gather", table, p, axis=0), p, axis=1)
    return g.op("Where", seen, scores, g.const(-np.inf))


@unsound("scores", CAUSAL)
def causal_by_distance(g, a, scores):
    """A bias per difference, as relative positions have it; those ahead are blocked."""
    table = np.zeros(2 * LONGEST)
    table[LONGEST + 1 :] = -1e4
    index = g.op("Add", a.difference(), g.int(LONGEST))
    return g.op("Add", scores, g.op("Gather", g.const(table), index, axis=0))


@unsound("scores", CAUSAL)
def causal_one_head(g, a, scores):
    """Only the first head may not look ahead."""
    heads = g.const((np.arange(a.h) == 0).reshape(1, a.h, 1, 1), np.bool_)
    return fill(g, scores, g.op("And", g.op("Greater", a.difference(), g.int(0)), heads))


@unsound("scores", CAUSAL)
def causal_with_slope(g, a, scores):
    far = g.number(g.cast(g.op("Abs", a.difference())), "Mul", -0.1)
    later = g.cast(g.op("Greater", a.difference(), g.int(0)))
    return g.op("Add", scores, g.op("Add", far, g.number(later, "Mul", -1e4)))


@unsound("scores", CAUSAL)
def causal_look_ahead(g, a, scores):
    """Two tokens ahead may be seen."""
    return fill(g, scores, g.op("Greater", a.difference(), g.int(2)))


@unsound("scores", CAUSAL)
def causal_chunks(g, a, scores):
    chunk = g.op("Div", a.indices(), g.int(4))
    return fill(g, scores, g.op("Greater", g.unsqueeze(chunk, 0), g.unsqueeze(chunk, 1)))


@unsound("scores", CAUSAL)
def causal_behind_prefix(g, a, scores):
    """The first tokens are seen by all."""
    p = g.unsqueeze(a.indices(), 0)
    blocked = g.op("And", g.op("Greater", a.difference(), g.int(0)), g.op("Greater", p, g.int(5)))
    return fill(g, scores, blocked)


@unsound("scores", CAUSAL)
def causal_band(g, a, scores):
    """A window that reaches back only."""
    d = a.difference()
    blocked = g.op("Or", g.op("Greater", d, g.int(0)), g.op("Less", d, g.int(-6)))
    return fill(g, scores, blocked)


@unsound("scores", CAUSAL)
def causal_if(g, a, scores):
    """Behind an If, of which both branches give it."""
    blocked = g.op("Greater", a.difference(), g.int(0))
    many = g.op("Greater", g.squeeze(g.size("N"), 0), g.int(1))
    return fill(g, scores, g.either(many, blocked, TensorProto.BOOL))


@unsound("scores", CAUSAL)
def causal_by_maximum(g, a, scores):
    """max(query, key) = query, with numbers."""
    p = g.op("Cast", a.indices(), to=TensorProto.FLOAT)
    query = g.unsqueeze(p, 1)
    most = g.op("Max", g.unsqueeze(p, 0), query)
    return g.op("Where", g.op("Not", g.op("Greater", most, query)), scores, g.const(low(g)))


@unsound("scores", GIVEN)
def causal_given(g, a, scores):
    """By positions that are fed."""
    p = a.tools.positions()
    blocked = g.op("Greater", g.unsqueeze(p, 1, 2), g.unsqueeze(p, 1, 3))
    return fill(g, scores, blocked)


@unsound("scores", GIVEN)
def causal_given_difference(g, a, scores):
    p = a.tools.positions()
    ahead = g.op("Relu", g.cast(g.op("Sub", g.unsqueeze(p, 1, 2), g.unsqueeze(p, 1, 3))))
    return g.op("Add", scores, g.number(ahead, "Mul", -1e4))


@unsound("weights", CAUSAL + MIXING)
def causal_weights(g, a, weights):
    """Behind the softmax, and scaled to a sum of 1 again."""
    seen = g.cast(g.op("Not", g.op("Greater", a.difference(), g.int(0))))
    kept = g.op("Mul", weights, seen)
    return g.op("Div", kept, g.reduce("Sum", kept, -1))


# Weights that would not be 0 where there is no token.


@unsound("weights", MIXING)
def weights_plus(g, a, weights):
    return g.number(weights, "Add", 0.01)


@unsound("weights", MIXING)
def weights_from_one(g, a, weights):
    return g.op("Sub", g.const(1.0), weights)


@unsound("weights", MIXING)
def weights_exp(g, a, weights):
    return g.op("Exp", weights)


@unsound("weights", MIXING)
def weights_sigmoid(g, a, weights):
    return g.op("Sigmoid", weights)


@unsound("weights", MIXING + CAUSAL)
def weights_biased(g, a, weights):
    table = g.floats(1, 1, LONGEST, LONGEST, scale=0.05)
    return g.op("Add", weights, g.slice(g.slice(table, 0, g.size("N"), 2), 0, g.size("N"), 3))


@unsound("weights", MIXING)
def weights_over_queries(g, a, weights):
    """Scaled to a sum of 1 over the queries too."""
    return g.op("Div", weights, g.number(g.reduce("Sum", weights, 2), "Add", 1e-3))


# Tokens are mixed by something else.


@unsound("tokens", MIXING)
def shifted_by_pad(g, a, x):
    return g.op("Pad", x, g.ints(0, 1, 0, 0, -1, 0))


@unsound("tokens", MIXING)
def shifted_by_join(g, a, x):
    first = g.number(g.slice(x, 0, 1, 1), "Mul", 0.0)
    return g.op("Concat", first, g.slice(x, 0, -1, 1), axis=1)


@unsound("tokens", MIXING)
def half_shifted(g, a, x):
    """Half of the channels come from the token before."""
    kept, moved = g.split(x, [a.d // 2] * 2, 2)
    return g.op("Concat", kept, g.op("Pad", moved, g.ints(0, 1, 0, 0, -1, 0)), axis=2)


@unsound("tokens", MIXING)
def rolled(g, a, x):
    return g.op("Concat", g.slice(x, -1, 2**31, 1), g.slice(x, 0, -1, 1), axis=1)


@unsound("tokens", MIXING)
def reversed_by_slice(g, a, x):
    return g.op("Slice", x, g.ints(-1), g.ints(-(2**31)), g.ints(1), g.ints(-1))


@unsound("tokens", MIXING)
def reversed_by_gather(g, a, x):
    last = g.op("Sub", g.size("N"), g.ints(1))
    return g.op("Gather", x, g.op("Sub", last, a.indices()), axis=1)


@unsound("tokens", MIXING)
def running_sum(g, a, x):
    return g.number(g.op("CumSum", x, g.int(1)), "Mul", 0.1)


@unsound("tokens", MIXING)
def minus_mean(g, a, x):
    return g.op("Sub", x, g.reduce("Mean", x, 1))


@unsound("tokens", MIXING)
def plus_maximum(g, a, x):
    return g.op("Add", x, g.reduce("Max", x, 1))


@unsound("tokens", MIXING)
def plus_first(g, a, x):
    """Every token gets what the first one has."""
    return g.op("Add", x, g.slice(x, 0, 1, 1))


@unsound("tokens", MIXING)
def softmax_over_tokens(g, a, x):
    y = g.op("Transpose", g.op("Softmax", g.op("Transpose", x, perm=[0, 2, 1]), axis=2), perm=[0, 2, 1])
    return g.op("Add", x, y)


@unsound("tokens", MIXING)
def normalised_over_tokens(g, a, x):
    y = g.op("Transpose", x, perm=[0, 2, 1])
    y = g.op("InstanceNormalization", y, g.const(np.ones(a.d)), g.const(np.zeros(a.d)))
    return g.op("Transpose", y, perm=[0, 2, 1])


@unsound("tokens", MIXING)
def pooled(g, a, x):
    y = g.op("Transpose", x, perm=[0, 2, 1])
    y = g.op("AveragePool", y, kernel_shape=[3], pads=[1, 1])
    return g.op("Transpose", y, perm=[0, 2, 1])


@unsound("tokens", MIXING)
def convolved(g, a, x):
    y = g.op("Transpose", x, perm=[0, 2, 1])
    y = g.op("Conv", y, g.floats(a.d, 1, 3, scale=0.5), group=a.d, pads=[1, 1])
    return g.op("Transpose", y, perm=[0, 2, 1])


@unsound("tokens", MIXING + CAUSAL)
def mixed_by_table(g, a, x):
    """A product with a matrix over the tokens."""
    table = g.floats(LONGEST, LONGEST, scale=0.1)
    return g.op("MatMul", g.slice(g.slice(table, 0, g.size("N"), 0), 0, g.size("N"), 1), x)


@unsound("tokens", MIXING)
def wrong_reshape(g, a, x):
    """Channels and tokens change places without a transposition."""
    y = g.reshape(x, ("B", "N", a.d), ("B", a.d, "N"))
    return g.op("Transpose", y, perm=[0, 2, 1])


@unsound("tokens", MIXING)
def products_of_tokens(g, a, x):
    """Attention without a softmax."""
    y = g.op("MatMul", x, g.op("Transpose", x, perm=[0, 2, 1]))
    return g.number(g.op("MatMul", y, x), "Mul", 1e-3)


@unsound("tokens", MIXING)
def over_the_batch(g, a, x):
    return g.op("Sub", x, g.reduce("Mean", x, 0))


# Read outside


@unsound("exposed", EXPOSED)
def weights_exposed(g, a, weights):
    return "weights"


@unsound("exposed", EXPOSED)
def hidden_exposed(g, a, hidden):
    return "hidden"


class Mutation:
    """One of them, in one block or (block None) in all."""

    def __init__(self, name, block, part):
        self.name, self.block, self.part = name, block, part
        self.place, self.codes, self.since, self.make = UNSOUND[name]

    def applies(self, place, block, part="attention"):
        here = self.block is None or self.block == block
        return here and self.place == place and (place != "tokens" or self.part == part)
