"""The operators in NumPy, f64, one batch row at a time: written from docs/operators.md, sharing nothing with the library."""

import math

import numpy as np


class Tree:
    """Items of one batch row as (first slot, one past the last, level)."""

    def __init__(self, ladder, v, nb):
        self.ladder, self.v, self.slots = ladder, v, v + nb * ladder[0]
        last = len(ladder) - 1
        self.items = [(i, i + 1, last) for i in range(self.slots)]
        for level, size in enumerate(ladder[:-1]):
            self.items += [(first, first + size, level) for first in range(v, self.slots, size)]

    def level(self, level):
        return [i for i in range(self.slots, len(self.items)) if self.items[i][2] == level]

    def children(self, i):
        first, end, level = self.items[i]
        inside = lambda j: self.items[j][2] == level + 1 and first <= self.items[j][0] < end
        return [j for j in range(len(self.items)) if inside(j)]

    def ancestors(self, i):
        """The finest first."""
        first, _, level = self.items[i]
        above = [j for j in range(self.slots, len(self.items)) if self.items[j][2] < level]
        return sorted((j for j in above if self.items[j][0] <= first < self.items[j][1]), key=lambda j: -self.items[j][2])


def spec_partition(vip, valid, ladder, capacity):
    batch, n = vip.shape
    v = capacity or int((vip & valid).sum(1).max(initial=0))
    v = min(max(v, 1), n)
    nb = max(1, -(-(n - v) // ladder[0]))
    tree = Tree(ladder, v, nb)
    out = [[], [], [], [], []]
    for b in range(batch):
        is_vip = vip[b] & valid[b]
        queue = [t for t in range(n) if is_vip[t]] + [t for t in range(n) if valid[b, t] and not is_vip[t]]
        queue += [t for t in range(n) if not valid[b, t]]
        slots = queue[:v] + sorted(queue[v:])
        token, count = [], []
        for first, end, level in tree.items:
            mine = slots[first:end]
            good = [t for t in mine if valid[b, t]]
            if not mine:
                token.append(slots[0])
                count.append(-1)
            elif not good:
                token.append(mine[0])
                count.append(0)
            else:
                q = round(sum(good) / len(good))  # half to even
                token.append(q if valid[b, q] else min(good, key=lambda t: (abs(t - q), t)))
                count.append(len(good))
        out[0].append(token)
        out[1].append(count)
        out[2].append([slots.index(t) for t in range(n)])
        out[3].append([bool(is_vip[t]) for t in slots[:v]])
        out[4].append(tree.level(0))
    kinds = [np.int64, np.int64, np.int64, bool, np.int64]
    sizes = [len(tree.items), len(tree.items), n, v, nb]
    return [np.array(rows, kind).reshape(batch, size) for rows, kind, size in zip(out, kinds, sizes)], tree


def tokens_of(tree, count, i):
    """Slots that hold the tokens of a mean."""
    first, end, _ = tree.items[i]
    good = [s for s in range(first, end) if count[s] == 1]
    return good or [s for s in range(first, end) if count[s] == 0]


def spec_coarsen(tree, x, token, count):
    rows = x[token[: tree.slots]]
    value = np.stack([rows[tokens_of(tree, count, i)].mean(0) if count[i] >= 0 else rows[0] for i in range(len(tree.items))])
    segments = (len(tree.items) - tree.slots, x.shape[1])
    return value, np.ones(segments), np.zeros(segments)


def spec_select(tree, scores, candidates, count, vote, refine):
    eligible = count[candidates] > 0
    total, rows = np.zeros(len(candidates)), 0
    for head in scores:
        for i in np.flatnonzero(vote):
            e = np.where(eligible, head[i], -np.inf)
            with np.errstate(invalid="ignore"):
                p = np.exp(e - e.max(initial=-np.inf))
                total += p / p.sum()
            rows += 1
    score = np.where(eligible & ~np.isnan(total), total / max(rows, 1), -np.inf)
    order = sorted(range(len(candidates)), key=lambda j: (-score[j], j))
    best = set(order[:refine])
    children = [child for j, c in enumerate(candidates) if j in best for child in tree.children(c)]
    rest = [c for j, c in enumerate(candidates) if j not in best]
    edge = score[order[refine - 1 : refine + 1]] if 0 < refine < len(candidates) else []
    near = len(edge) == 2 and edge[0] != edge[1] and np.isfinite(edge[1]) and (edge[0] - edge[1]) < 1e-5 * edge[0]
    return children, rest, near


def current(tree, state, i):
    value, scale, offset = state
    x = value[i]
    for j in tree.ancestors(i):
        x = scale[j - tree.slots] * x + offset[j - tree.slots]
    return x


def spec_compress(tree, state, items, token, count, weight):
    listed = list(range(tree.v)) + list(items)
    rows = np.stack([current(tree, state, i if count[i] >= 0 else 0) for i in listed])
    bias = [-math.inf if count[i] < 0 else 0.0 if i < tree.slots else weight * math.log(max(1, count[i])) for i in listed]
    return rows, token[listed], np.array(bias)


def spec_decompress(tree, state, items, count, y, update, gain):
    value, scale, offset = (tensor.copy() for tensor in state)
    value[: tree.v] = y[: tree.v]
    refined = set()
    for row, i in enumerate(items, tree.v):
        refined |= set(tree.ancestors(i))
        if count[i] < 0:
            continue
        if i < tree.slots:
            value[i] = y[row]
            continue
        value[i] = gain * current(tree, state, i) + update[row]
        s, o = 1.0, 0.0
        for j in [i] + tree.ancestors(i):
            s, o = state[1][j - tree.slots] * s, state[1][j - tree.slots] * o + state[2][j - tree.slots]
        scale[i - tree.slots], offset[i - tree.slots] = gain * s, gain * o + update[row]
    for i in sorted(refined, key=lambda i: -tree.items[i][2]):
        if count[i] < 0:
            continue
        weights = {}
        for child in tree.children(i):
            first, end, _ = tree.items[child]
            weights[child] = count[child] if count[i] > 0 else sum(count[s] >= 0 for s in range(first, end))
        weights = {child: weight for child, weight in weights.items() if weight > 0}
        value[i] = sum(weight * value[child] for child, weight in weights.items()) / sum(weights.values())
        scale[i - tree.slots], offset[i - tree.slots] = 1.0, 0.0
    return value, scale, offset
