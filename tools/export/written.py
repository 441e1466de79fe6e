"""Encoders written here: forms that transformers has no model of, and the layouts of torch.nn.TransformerEncoder."""

import math

import torch
from models import IDS, STATES, varied
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, INNER, VOCAB, LENGTH = 32, 4, 64, 120, 128
HEAD = WIDTH // HEADS


def key_mask(attention_mask):
    """0 at valid tokens, the least number at padding: [batch, 1, 1, token]."""
    return (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min


def heads(x):
    return x.view(x.shape[0], x.shape[1], -1, HEAD).transpose(1, 2)


def attend(q, k, v, bias):
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(HEAD) + bias, -1)
    return (weights @ v).transpose(1, 2).flatten(2)


def rotate_half(x, length):
    """Rotates the pairs (i, i + half) of each head."""
    half = HEAD // 2
    angles = torch.arange(length).float()[:, None] * 100.0 ** (-torch.arange(half).float() / half)
    a, b = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def rotate_pairs(x, length):
    """Rotates the pairs (2i, 2i + 1) of each head."""
    half = HEAD // 2
    angles = torch.arange(length).float()[:, None] * 100.0 ** (-torch.arange(half).float() / half)
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


class Block(nn.Module):
    """Post-LN; `positions` is what the attention knows about them, `glu` the activation of a gated feed-forward part."""

    def __init__(self, positions=None, glu=None, fused=True):
        super().__init__()
        self.positions, self.glu, self.fused = positions, glu, fused
        if fused:
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        else:
            self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up = nn.Linear(WIDTH, 2 * INNER if glu else INNER)
        self.down = nn.Linear(INNER, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x, bias):
        batch, length, _ = x.shape
        if self.fused:
            q, k, v = self.qkv(x).view(batch, length, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        if self.positions:
            q, k = self.positions(q, length), self.positions(k, length)
        x = self.norm1(x + self.out(attend(q, k, v, bias)))
        if self.glu:
            value, gate = self.up(x).chunk(2, -1)
            inner = value * self.glu(gate)
        else:
            inner = F.gelu(self.up(x))
        return self.norm2(x + self.down(inner))


class Encoder(nn.Module):
    def __init__(self, bias=None, **block):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList([Block(**block) for _ in range(2)])
        self.bias = bias or key_mask

    def forward(self, input_ids, attention_mask):
        x = self.norm(self.embed(input_ids))
        bias = self.bias(attention_mask)
        for block in self.blocks:
            x = block(x, bias)
        return (x,)


def alibi(attention_mask):
    """Minus slope times distance, to both sides, and the mask."""
    place = torch.arange(attention_mask.shape[1])
    distance = (place[None, :] - place[:, None]).abs().float()
    slopes = 2.0 ** -torch.arange(1, HEADS + 1).float()
    return -slopes[None, :, None, None] * distance + key_mask(attention_mask)


def alibi_table(attention_mask):
    """The same from a table of the longest length, cut to the length."""
    place = torch.arange(LENGTH)
    table = -(2.0 ** -torch.arange(1, HEADS + 1).float())[:, None, None] * (place[None, :] - place[:, None]).abs()
    n = attention_mask.shape[1]
    return table[None, :, :n, :n] + key_mask(attention_mask)


@varied
def nomic_like(attention):
    """Rotary halves, packed projections, SwiGLU."""
    return Encoder(positions=rotate_half, glu=F.silu), IDS, STATES


@varied
def rope_pairs(attention):
    return Encoder(positions=rotate_pairs, fused=False), IDS, STATES


@varied
def jina_like(attention):
    """ALiBi to both sides and GEGLU."""
    return Encoder(bias=alibi, glu=F.gelu, fused=False), IDS, STATES


@varied
def alibi_cut(attention):
    return Encoder(bias=alibi_table, fused=True), IDS, STATES


@varied
def cosine_scores(attention):
    """Normalised queries and keys with a learnt scale, a soft cap, and an attention sink that is no token."""

    class Capped(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(VOCAB, WIDTH)
            self.parts = nn.ModuleList([nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(4)]) for _ in range(2)])
            self.scale = nn.Parameter(torch.ones(HEADS, 1, 1))

        def forward(self, input_ids, attention_mask):
            x, bias = self.embed(input_ids), key_mask(attention_mask)
            for query, key, value, out in self.parts:
                q, k = (F.normalize(heads(part(x)), dim=-1) for part in (query, key))
                scores = torch.tanh(q @ k.transpose(-1, -2) * self.scale * 8 / 5) * 5 + bias
                x = x + out((torch.softmax(scores, -1) @ heads(value(x))).transpose(1, 2).flatten(2))
            return (x,)

    return Capped(), IDS, STATES


@varied
def multi_query(attention):
    """One key and value head for all query heads."""

    class MultiQuery(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.place = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LENGTH, WIDTH)
            self.parts = nn.ModuleList([nn.ModuleList([nn.Linear(WIDTH, WIDTH + 2 * HEAD), nn.Linear(WIDTH, WIDTH)]) for _ in range(2)])
            self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(2)])

        def forward(self, input_ids, attention_mask):
            x, bias = self.embed(input_ids) + self.place.weight[: input_ids.shape[1]], key_mask(attention_mask)
            for (project, out), norm in zip(self.parts, self.norms):
                q, k, v = project(norm(x)).split([WIDTH, HEAD, HEAD], -1)
                x = x + out(attend(heads(q), k[:, None], v[:, None], bias))
            return (x,)

    return MultiQuery(), IDS, STATES


@varied
def parallel_block(attention):
    """Attention and feed-forward part beside each other, both read the same norm."""

    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.place = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LENGTH, WIDTH)
            self.blocks = nn.ModuleList([Block() for _ in range(2)])

        def forward(self, input_ids, attention_mask):
            x, bias = self.embed(input_ids) + self.place.weight[: input_ids.shape[1]], key_mask(attention_mask)
            for block in self.blocks:
                y = block.norm1(x)
                q, k, v = (heads(part) for part in block.qkv(y).chunk(3, -1))
                x = x + block.out(attend(q, k, v, bias)) + block.down(F.relu(block.up(y)))
            return (x,)

    return Parallel(), IDS, STATES


@varied
def einsum_heads(attention):
    """Projections by Einsum with one weight tensor for each head."""

    class Einsum(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.place = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LENGTH, WIDTH)
            self.inward = nn.Parameter(torch.zeros(2, 3, HEADS, HEAD, WIDTH))
            self.outward = nn.Parameter(torch.zeros(2, WIDTH, HEADS, HEAD))
            self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(2)])

        def forward(self, input_ids, attention_mask):
            x, bias = self.embed(input_ids) + self.place.weight[: input_ids.shape[1]], key_mask(attention_mask)
            for layer, norm in enumerate(self.norms):
                q, k, v = (torch.einsum("bnd,hed->bhne", x, weight) for weight in self.inward[layer].unbind(0))
                weights = torch.softmax(torch.einsum("bhie,bhje->bhij", q, k) / math.sqrt(HEAD) + bias, -1)
                x = norm(x + torch.einsum("bhij,bhje,dhe->bid", weights, v, self.outward[layer]))
            return (x,)

    return Einsum(), IDS, STATES


class TorchEncoder(nn.Module):
    """torch.nn.TransformerEncoder in its layouts; sequence-first turns the embeddings around."""

    def __init__(self, first, norm_first, activation="gelu"):
        super().__init__()
        self.first = first
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.place = nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, activation=activation, batch_first=first == "batch", norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH) if norm_first else None, enable_nested_tensor=False)

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids) + self.place.weight[: input_ids.shape[1]]
        if self.first == "sequence":
            x = x.transpose(0, 1)
        x = self.encoder(x, src_key_padding_mask=attention_mask == 0)
        return (x.transpose(0, 1) if self.first == "sequence" else x,)


@varied
def torch_batch_post(attention):
    return TorchEncoder("batch", False), IDS, STATES


@varied
def torch_batch_pre(attention):
    return TorchEncoder("batch", True, "relu"), IDS, STATES


@varied
def torch_sequence_post(attention):
    return TorchEncoder("sequence", False, "relu"), IDS, STATES


@varied
def torch_sequence_pre(attention):
    return TorchEncoder("sequence", True), IDS, STATES


@varied
def torch_transformer(attention):
    """torch.nn.Transformer whole: encoder, and a decoder with a causal mask."""

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.place = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LENGTH, WIDTH)
            self.body = nn.Transformer(WIDTH, HEADS, 2, 2, INNER, batch_first=True)

        def forward(self, input_ids, attention_mask, decoder_input_ids):
            source = self.embed(input_ids) + self.place.weight[: input_ids.shape[1]]
            target = self.embed(decoder_input_ids) + self.place.weight[: decoder_input_ids.shape[1]]
            length = decoder_input_ids.shape[1]
            causal = torch.ones(length, length).tril() == 0
            padding = attention_mask == 0
            return (self.body(source, target, tgt_mask=causal, src_key_padding_mask=padding, memory_key_padding_mask=padding),)

    return Whole(), {**IDS, "decoder_input_ids": "ids"}, STATES
