"""Encoders in PyTorch over the weights of an ONNX file: with full attention, and the VCC authors' own form.

`Authors` is a reconstruction from the description of the authors' implementation, operation by operation: what is copied, sorted,
gathered and concatenated there is so here, so that its export to ONNX costs what theirs does. golden.py compares it with the
outputs of their implementation.
"""

import math

import torch
from torch import nn
from torch.nn import functional

PADDING = 1  # RoBERTa's padding id
BUCKETS, FARTHEST = 32, 128  # of T5's relative positions


class Encoder(nn.Module):
    """Embeddings, norms and the parts of a layer: a pre-norm or post-norm RoBERTa, or a T5 encoder."""

    def __init__(self, weights, heads):
        super().__init__()
        self.heads, self.t5, self.post_norm = heads, weights.t5, weights.post_norm
        self.count = len(weights.layers)
        for i, layer in enumerate(weights.layers):
            for part, (matrix, bias) in layer.items():
                self.keep(f"{i}_{part}", matrix, bias)
        if weights.last_norm is not None:
            self.keep("last", *weights.last_norm)
        if self.t5:
            self.keep("words", weights.array("shared.weight"), None)
            self.keep("distances", weights.array("relative_attention_bias.weight"), None)
        else:
            self.keep("words", weights.array("word_embeddings.weight"), None)
            self.keep("places", weights.array("position_embeddings.weight"), None)
            self.keep("types", weights.array("token_type_embeddings.weight"), None)
            self.keep("first", *weights.part("embeddings.LayerNorm", "norm"))

    def keep(self, name, matrix, bias):
        self.register_buffer(f"{name}_weight", matrix)
        self.register_buffer(f"{name}_bias", bias)

    def weight(self, name):
        return getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")

    def norm(self, name, x):
        gain, bias = self.weight(name)
        if self.t5:
            return gain * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        return functional.layer_norm(x, x.shape[-1:], gain, bias, 1e-5)

    def linear(self, name, x):
        matrix, bias = self.weight(name)
        y = torch.matmul(x, matrix)
        return y if bias is None else y + bias

    def embed(self, ids, types=None, positions=None):
        x = functional.embedding(ids, self.words_weight)
        if self.t5:
            return x
        real = (ids != PADDING).long()
        # The table's first two rows are for padding.
        positions = torch.cumsum(real, 1) * real + PADDING if positions is None else positions + PADDING + 1
        types = torch.zeros_like(ids) if types is None else types
        x = x + functional.embedding(types, self.types_weight) + functional.embedding(positions, self.places_weight)
        return self.norm("first", x)

    def head(self, name, x):
        """[batch, heads, tokens, channels of a head]"""
        y = self.linear(name, x)
        return y.view(*y.shape[:2], self.heads, -1).transpose(1, 2)

    def relative(self, queries, keys):
        """T5's bias [batch, heads, queries, keys] between integer positions [batch, ..]."""
        distance = keys[:, None, :] - queries[:, :, None]
        half = BUCKETS // 2
        far = distance.abs().clamp(min=1).float()
        far = half // 2 + (torch.log(far / (half // 2)) / math.log(FARTHEST / (half // 2)) * (half - half // 2)).long()
        bucket = torch.where(distance.abs() < half // 2, distance.abs(), far.clamp(max=half - 1))
        bucket = bucket + (distance > 0).long() * half
        return functional.embedding(bucket, self.distances_weight).permute(0, 3, 1, 2)

    def feed_forward(self, i, x):
        inner = self.linear(f"{i}_up", x)
        return self.linear(f"{i}_down", functional.relu(inner) if self.t5 else functional.gelu(inner))


class Full(nn.Module):
    """Every layer over all tokens, attention by PyTorch's scaled_dot_product_attention."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def attention(self, i, x, bias):
        e = self.encoder
        parts = [e.head(f"{i}_{part}", x) for part in ("query", "key", "value")]
        y = functional.scaled_dot_product_attention(*parts, attn_mask=bias, scale=1.0 if e.t5 else None)
        return e.linear(f"{i}_out", y.transpose(1, 2).reshape(x.shape))

    def forward(self, input_ids, attention_mask, token_type_ids=None, position_ids=None):
        e = self.encoder
        x = e.embed(input_ids, token_type_ids, position_ids)
        # Without padding no bias is given: PyTorch is fastest then.
        bias = None if attention_mask.all() else torch.where(attention_mask[:, None, None, :] > 0, 0.0, torch.finfo(x.dtype).min)
        if e.t5:
            places = torch.arange(x.shape[1])[None]
            relative = e.relative(places, places)
            bias = relative if bias is None else bias + relative
        for i in range(e.count):
            if e.post_norm:
                x = e.norm(f"{i}_norm1", x + self.attention(i, x, bias))
                x = e.norm(f"{i}_norm2", x + e.feed_forward(i, x))
            else:
                x = x + self.attention(i, e.norm(f"{i}_norm1", x), bias)
                x = x + e.feed_forward(i, e.norm(f"{i}_norm2", x))
        return x if e.post_norm else e.norm("last", x)


class Authors(nn.Module):
    """The VCC authors' encoder. Lengths are static; `vip` marks the important tokens, which a model of theirs is told."""

    def __init__(self, encoder, local, window, capacity, segment, refined):
        super().__init__()
        self.encoder, self.local, self.window = encoder, local, window
        self.capacity, self.segment, self.refined = capacity, segment, refined

    def forward(self, input_ids, attention_mask, vip, token_type_ids=None, position_ids=None):
        e = self.encoder
        x = e.embed(input_ids, token_type_ids, position_ids)
        mask = attention_mask.float()
        for i in range(self.local):
            x = self.windows(i, x, mask)
        bank = Bank(self, x * mask[:, :, None], mask, vip.float())
        for i in range(self.local, e.count):
            bank.layer(i)
        return e.norm("last", bank.leave())

    def windows(self, i, x, mask):
        e, shape = self.encoder, x.shape
        x, mask = x.reshape(-1, self.window, shape[-1]), mask.reshape(-1, self.window)
        places = torch.arange(self.window)[None]
        bias = -1000.0 * (1.0 - mask[:, None, None, :])
        return self.attend(i, x, bias, places if e.t5 else None).reshape(shape)

    def scores(self, i, queries, keys):
        e = self.encoder
        q, k = e.head(f"{i}_query", queries), e.head(f"{i}_key", keys)
        if not e.t5:  # both by the fourth root of the head's size
            root = math.sqrt(math.sqrt(q.shape[-1]))
            q, k = q / root, k / root
        return torch.matmul(q, k.transpose(2, 3))

    def attend(self, i, x, bias, places, gain=None):
        """A whole layer, with eager attention."""
        e = self.encoder
        inner = e.norm(f"{i}_norm1", x)
        scores = self.scores(i, inner, inner) + bias
        if places is not None:
            scores = scores + e.relative(places, places)
        y = torch.matmul(functional.softmax(scores, -1), e.head(f"{i}_value", inner))
        a = e.linear(f"{i}_out", y.transpose(1, 2).reshape(x.shape))
        change = a + e.feed_forward(i, e.norm(f"{i}_norm2", x + a))
        return x + (change if gain is None else gain[:, :, None] * change)


class Bank:
    """The authors' state between layers: means of segments, and a bank of differences that grows with every layer."""

    def __init__(self, model, x, mask, vip):
        self.model = model
        batch, n, _ = x.shape
        v, size = model.capacity, model.segment
        self.count = (n - v) // size
        # A stable descending sort, as a TopK of distinct keys.
        self.order = torch.topk(vip.long() * 2 * n - torch.arange(n), n).indices
        self.batch = torch.arange(batch)[:, None]
        x, mask = x[self.batch, self.order], mask[self.batch, self.order]
        self.important, self.vip, self.vip_mask = vip[self.batch, self.order][:, :v], x[:, :v], mask[:, :v]
        self.mask = mask[:, v:].reshape(batch, self.count, size)
        self.means, self.bank = self.average(x[:, v:].reshape(batch, self.count, size, -1), self.mask)
        self.any = (self.mask.sum(-1) > 0).float()
        self.table = torch.arange(self.count).expand(batch, -1)
        self.vip_places = self.order[:, :v]
        self.places = self.order[:, v:].reshape(batch, self.count, size)
        self.mean_places = self.places.float().mean(-1).round().long()

    @staticmethod
    def average(x, mask):
        """The segments' means and each token's difference from its mean."""
        x = x * mask[..., None]
        means = x.sum(2) / (mask.sum(2) + 1e-4)[..., None]
        return means, means[:, :, None] - x

    def select(self, i):
        """All segments, the most looked at first, and the logarithms of what they were given."""
        model, e = self.model, self.model.encoder
        scores = model.scores(i, e.norm(f"{i}_norm1", self.vip), e.norm(f"{i}_norm1", self.means))
        if e.t5:
            scores = scores + e.relative(self.vip_places, self.mean_places)
        shares = functional.softmax(scores - 1000.0 * (1.0 - self.any[:, None, None, :]), -1).mean(1)
        scores = torch.log((self.important[:, :, None] * shares).sum(1) / model.capacity + 1e-5)
        return torch.topk(scores, self.count)

    def layer(self, i):
        model, batch = self.model, self.batch
        h, size, v = model.refined, model.segment, model.capacity
        scores, order = self.select(i)
        fine, coarse = order[:, :h], order[:, h:]
        rows_count = h * size
        # All of them are 1 in value: they carry the selection's gradients.
        chance = functional.softmax(scores, -1)
        straight = chance - chance.detach()
        fine_gain = (1.0 + straight[:, :h])[:, :, None].expand(-1, -1, size).reshape(len(batch), rows_count)
        gain = torch.cat([fine_gain, 1.0 - straight[:, h:], torch.ones_like(self.vip_mask)], 1)

        tokens = self.means[batch, fine][:, :, None] - self.bank[batch, self.table[batch, fine]]
        fine_mask = self.mask[batch, fine]
        rows = torch.cat([tokens.reshape(len(batch), rows_count, -1), self.means[batch, coarse], self.vip], 1)
        mask = torch.cat([fine_mask.reshape(len(batch), rows_count), self.any[batch, coarse], self.vip_mask], 1)
        copies = torch.cat([torch.ones(rows_count), torch.full((self.count - h,), float(size)), torch.ones(v)])
        places = None
        if model.encoder.t5:
            fine_places = self.places[batch, fine].reshape(len(batch), rows_count)
            places = torch.cat([fine_places, self.mean_places[batch, coarse], self.vip_places], 1)
        bias = -1000.0 * (1.0 - mask) + torch.log(copies + 1e-4) + torch.log(gain + 1e-4)
        rows = model.attend(i, rows, bias[:, None, None, :], places, gain)

        means, differences = self.average(rows[:, :rows_count].reshape(len(batch), h, size, -1), fine_mask)
        means = torch.cat([means, rows[:, rows_count : rows_count + self.count - h]], 1)
        # Back in the order of the text.
        self.means = means[batch, torch.topk(-order, self.count).indices]
        self.vip = rows[:, rows_count + self.count - h :]
        slots = torch.arange(h) + self.bank.shape[1]
        self.table = self.table.scatter(1, fine, slots.expand(len(batch), -1))
        self.bank = torch.cat([self.bank, differences], 1)

    def leave(self):
        """All tokens in the order of the text."""
        tokens = self.means[:, :, None] - self.bank[self.batch, self.table]
        tokens = (tokens * self.mask[..., None]).flatten(1, 2)
        return torch.cat([self.vip, tokens], 1)[self.batch, torch.topk(-self.order, self.order.shape[1]).indices]
