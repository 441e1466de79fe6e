"""The operators of ai.vcc as plain loops over numpy arrays in float64, straight from docs/operators.md.

Slow and obvious on purpose. It shares nothing with the function bodies, the kernels or the Rust reference, so that they can be
compared with it. Every function takes and returns what the operator of that name does.
"""

import math
from fractions import Fraction

import numpy as np


class Layout:
    """Sizes and item ids for n tokens, v VIP slots and a ladder."""

    def __init__(self, ladder, v, nb):
        self.ladder = list(ladder)
        self.levels = len(ladder) - 1
        self.v, self.nb = v, nb
        self.m = nb * ladder[0]
        self.first = []  # id of segment 0 of each level
        id_ = v + self.m
        for size in ladder[:-1]:
            self.first.append(id_)
            id_ += nb * (ladder[0] // size)
        self.items = id_
        self.segments = id_ - v - self.m

    @staticmethod
    def of_tokens(ladder, n, v):
        return Layout(ladder, v, max(1, math.ceil((n - v) / ladder[0])))

    @staticmethod
    def of_items(ladder, items, v):
        for nb in range(1, items + 1):
            layout = Layout(ladder, v, nb)
            if layout.items == items:
                return layout
        raise ValueError(f"{items} items do not fit the ladder {ladder}")

    def is_segment(self, item):
        return item >= self.v + self.m

    def level(self, item):
        """Level of a segment; `levels` for a context slot; None for a VIP slot."""
        if item < self.v:
            return None
        if not self.is_segment(item):
            return self.levels
        return max(l for l in range(self.levels) if item >= self.first[l])

    def count_at(self, level):
        return self.nb * (self.ladder[0] // self.ladder[level])

    def slots(self, item):
        """The slots that an item covers."""
        if not self.is_segment(item):
            return [item]
        level = self.level(item)
        size = self.ladder[level]
        j = item - self.first[level]
        return list(range(self.v + j * size, self.v + (j + 1) * size))

    def children(self, segment):
        covered = self.slots(segment)
        level = self.level(segment) + 1
        if level == self.levels:
            return covered
        return [s for s in range(self.first[level], self.first[level] + self.count_at(level)) if self.slots(s)[0] in covered]

    def ancestors(self, item):
        """Strict ancestors, the finest first."""
        level = self.level(item)
        if level is None:
            return []
        slot = self.slots(item)[0] - self.v
        return [self.first[l] + slot // self.ladder[l] for l in reversed(range(level))]


def partition(vip, valid, ladder, capacity):
    B, n = valid.shape
    vips = vip & valid
    wanted = capacity if capacity > 0 else int(vips.sum(axis=1).max())
    v = min(max(wanted, 1), n)
    layout = Layout.of_tokens(ladder, n, v)
    item_token = np.zeros((B, layout.items), np.int64)
    item_count = np.zeros((B, layout.items), np.int64)
    token_slot = np.zeros((B, n), np.int64)
    vote = np.zeros((B, v), bool)
    roots = np.zeros((B, layout.nb), np.int64)
    for b in range(B):
        queue = [t for t in range(n) if vips[b, t]]
        queue += [t for t in range(n) if valid[b, t] and not vips[b, t]]
        queue += [t for t in range(n) if not valid[b, t]]
        front = queue[:v]
        order = front + [t for t in range(n) if t not in front]
        for slot in range(v + layout.m):
            if slot < n:
                item_token[b, slot] = order[slot]
                item_count[b, slot] = 1 if valid[b, order[slot]] else 0
                token_slot[b, order[slot]] = slot
            else:
                item_token[b, slot] = order[0]
                item_count[b, slot] = -1
        for slot in range(v):
            vote[b, slot] = vips[b, order[slot]]
        for segment in range(v + layout.m, layout.items):
            slots = layout.slots(segment)
            tokens = [order[s] for s in slots if s < n]
            good = [t for t in tokens if valid[b, t]]
            item_count[b, segment] = len(good) if tokens else -1
            if good:
                q = round(Fraction(sum(good), len(good)))
                nearest = min(good, key=lambda t: (abs(t - q), t))
                item_token[b, segment] = q if valid[b, q] else nearest
            else:
                item_token[b, segment] = tokens[0] if tokens else order[0]
        roots[b] = np.arange(layout.nb) + v + layout.m
    return item_token, item_count, token_slot, vote, roots


def mean_of(rows, count):
    """Mean of the rows of valid tokens, of all existing ones if none is valid."""
    valid = [row for row, c in zip(rows, count) if c == 1]
    existing = [row for row, c in zip(rows, count) if c >= 0]
    chosen = valid or existing
    total = np.zeros_like(rows[0])
    for row in chosen:
        total = total + row
    return total / len(chosen)


def coarsen(x, item_token, item_count, token_slot, vote, ladder):
    B, P = item_token.shape
    d = x.shape[2]
    layout = Layout.of_items(ladder, P, vote.shape[1])
    value = np.zeros((B, P, d))
    for b in range(B):
        for slot in range(layout.v + layout.m):
            value[b, slot] = x[b, item_token[b, slot]] if item_count[b, slot] >= 0 else x[b, item_token[b, 0]]
        for segment in range(layout.v + layout.m, P):
            if item_count[b, segment] < 0:
                value[b, segment] = value[b, 0]
            else:
                slots = layout.slots(segment)
                value[b, segment] = mean_of(value[b, slots], item_count[b, slots])
    return value, np.ones((B, layout.segments, d)), np.zeros((B, layout.segments, d))


def select(scores, candidates, item_count, vote, budget, ladder, level):
    """Returns (children, rest, gap): gap is the relative distance of the scores at the cut of each batch row, inf without a cut."""
    B, H, v, C = scores.shape
    layout = Layout.of_items(ladder, item_count.shape[1], v)
    h = min(budget, C) if budget >= 0 else min(C, math.ceil(Fraction(C * -int(budget), 100)))
    children, rest, gaps = [], [], []
    for b in range(B):
        live = [c for c in range(C) if item_count[b, candidates[b, c]] > 0]
        score = [0.0] * C
        voters = [i for i in range(v) if vote[b, i]]
        for head in range(H):
            for i in voters:
                if not live:
                    continue
                raw = np.array([scores[b, head, i, c] for c in live], np.float64)
                with np.errstate(invalid="ignore"):
                    e = np.exp(raw - raw.max())
                for c, p in zip(live, e / e.sum()):
                    score[c] += p / (H * len(voters))
        for c in range(C):
            if c not in live or math.isnan(score[c]):
                score[c] = -math.inf
        ranked = sorted(range(C), key=lambda c: (-score[c], c))
        best = sorted(ranked[:h])
        gap = math.inf
        if 0 < h < C and score[ranked[h - 1]] > -math.inf:
            a, z = score[ranked[h - 1]], score[ranked[h]]
            gap = (a - z) / max(abs(a), 1e-300) if z > -math.inf else math.inf
        gaps.append(gap)
        assert all(layout.level(candidates[b, c]) == level for c in range(C))
        children.append([child for c in best for child in layout.children(candidates[b, c])])
        rest.append([candidates[b, c] for c in range(C) if c not in best])
    arity = ladder[level] // ladder[level + 1]
    children = np.array(children, np.int64).reshape(B, h * arity)
    return children, np.array(rest, np.int64).reshape(B, C - h), gaps


def current(layout, value, scale, offset, b, item):
    x = value[b, item].astype(np.float64)
    for a in layout.ancestors(item):
        s = a - layout.v - layout.m
        x = scale[b, s] * x + offset[b, s]
    return x


def compress(value, scale, offset, items, item_token, item_count, vote, ladder, count_weight):
    B, P, d = value.shape
    v = vote.shape[1]
    layout = Layout.of_items(ladder, P, v)
    r = v + items.shape[1]
    rows, row_token, row_bias = np.zeros((B, r, d)), np.zeros((B, r), np.int64), np.zeros((B, r))
    for b in range(B):
        for row, item in enumerate(list(range(v)) + list(items[b])):
            count = item_count[b, item]
            row_token[b, row] = item_token[b, item]
            if count < 0:
                rows[b, row] = value[b, 0]
                row_bias[b, row] = -math.inf
            else:
                rows[b, row] = current(layout, value, scale, offset, b, item)
                row_bias[b, row] = count_weight * math.log(max(1, count)) if layout.is_segment(item) else 0.0
    return rows, row_token, row_bias


def decompress(value, scale, offset, items, item_count, vote, y, update, gain, ladder):
    B, P, d = value.shape
    v = vote.shape[1]
    layout = Layout.of_items(ladder, P, v)
    new_value, new_scale, new_offset = (a.astype(np.float64).copy() for a in (value, scale, offset))
    for b in range(B):
        refined = set()
        for row, item in enumerate(list(range(v)) + list(items[b])):
            refined.update(layout.ancestors(item))
            if item_count[b, item] < 0:
                continue
            if not layout.is_segment(item):
                new_value[b, item] = y[b, row]
                continue
            x = current(layout, value, scale, offset, b, item)
            new_value[b, item] = gain * x + update[b, row]
            S, O = np.ones(d), np.zeros(d)
            for a in [item] + layout.ancestors(item):
                s = a - layout.v - layout.m
                S = scale[b, s] * S
                O = scale[b, s] * O + offset[b, s]
            s = item - layout.v - layout.m
            new_scale[b, s] = gain * S
            new_offset[b, s] = gain * O + update[b, row]
        for segment in sorted(refined, reverse=True):  # finer levels have higher ids
            if item_count[b, segment] < 0:
                continue
            s = segment - layout.v - layout.m
            new_scale[b, s], new_offset[b, s] = 1.0, 0.0
            children = layout.children(segment)
            if layout.level(segment) == layout.levels - 1:
                new_value[b, segment] = mean_of(new_value[b, children], item_count[b, children])
                continue
            if item_count[b, segment] > 0:
                weight = [max(0, item_count[b, c]) for c in children]
            else:
                weight = [sum(item_count[b, s] >= 0 for s in layout.slots(c)) for c in children]
            total = np.zeros(d)
            for child, w in zip(children, weight):
                if w > 0:
                    total = total + w * new_value[b, child]
            new_value[b, segment] = total / sum(weight)
    return new_value, new_scale, new_offset


def expand(value, scale, offset, token_slot, vote, ladder):
    B, P, d = value.shape
    n = token_slot.shape[1]
    layout = Layout.of_items(ladder, P, vote.shape[1])
    x = np.zeros((B, n, d))
    for b in range(B):
        for t in range(n):
            x[b, t] = current(layout, value, scale, offset, b, token_slot[b, t])
    return x
