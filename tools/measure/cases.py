"""What is compared with what."""

from dataclasses import dataclass, replace
from typing import ClassVar


@dataclass(frozen=True)
class Plan:
    vip: int
    refine: tuple
    ladder: tuple = (16, 1)
    local_blocks: int = 0
    WINDOW: ClassVar = 512

    def blocks(self):
        return f"0-{self.local_blocks - 1}=local:{self.WINDOW},{self.local_blocks}-=vcc" if self.local_blocks else "0-=vcc"

    def rows(self, n):
        coarsest = -(-(n - self.vip) // self.ladder[0])
        return self.vip + coarsest + sum((a // b - 1) * h for a, b, h in zip(self.ladder, self.ladder[1:], self.refine))

    def __str__(self):
        local = f"blocks 0-{self.local_blocks - 1} local:{self.WINDOW}, " if self.local_blocks else ""
        return f"{local}ladder {','.join(map(str, self.ladder))}, refine {','.join(map(str, self.refine))}, first:{self.vip}"


@dataclass(frozen=True)
class Entry:
    """One model that takes part: `kind` is as it is, fused, sdpa, authors or converted."""

    kind: str
    n: int
    plan: Plan | None = None
    name: str = ""

    def label(self):
        return self.name or self.kind


@dataclass(frozen=True)
class Case:
    """Models that take turns. The first converted one is compared with the others."""

    model: str
    entries: list
    rounds: int = 5
    heading: str = ""
    profiled: int = 1  # so many of the converted models, from the first

    def with_rounds(self, rounds):
        return replace(self, rounds=rounds)


def originals(n, *kinds):
    return [Entry(kind, n) for kind in kinds]


def ladder(n, *refine):
    return Entry("converted", n, Plan(48, refine, (64, 8, 1)), f"ladder {n // 1024}K")


def long_case(n, rounds, *refine):
    theirs = Entry("converted", n, Plan(48, (90,), local_blocks=4), "authors' plan")
    heading = f"{n} tokens: compressed from block 0 with a ladder, against the authors' plan converted by the same tool"
    return Case("long", [ladder(n, *refine), theirs], rounds, heading)


# The authors' plans: WikiHop at 4096 tokens, NarrativeQA at 16384.
WIKIHOP = Plan(256, (80,), local_blocks=4)
NARRATIVE = Plan(48, (90,), local_blocks=4)
EVERYWHERE = Plan(256, (80,))
ALL = ("as it is", "fused", "sdpa")

CASES = {
    "4k": Case(
        "pre-norm",
        [*originals(4096, *ALL), Entry("authors", 4096, WIKIHOP), Entry("converted", 4096, WIKIHOP)],
        heading="RoBERTa-base, pre-norm, 4096 tokens, the authors' plan",
    ),
    "16k": Case(
        "pre-norm",
        # ONNX Runtime cannot run the original: one layer's scores are 12.9 GB.
        [*originals(16384, "sdpa"), Entry("authors", 16384, NARRATIVE), Entry("converted", 16384, NARRATIVE)],
        rounds=3,
        heading="RoBERTa-base, pre-norm, 16384 tokens, the authors' plan",
    ),
    "post-4k": Case(
        "post-norm",
        [*originals(4096, *ALL), Entry("converted", 4096, WIKIHOP), Entry("converted", 4096, EVERYWHERE, "no local blocks")],
        heading="RoBERTa-base, post-norm, 4096 tokens",
    ),
    "t5-4k": Case(
        "t5",
        [*originals(4096, *ALL), Entry("converted", 4096, WIKIHOP), Entry("converted", 4096, EVERYWHERE, "no local blocks")],
        heading="T5-base encoder, 4096 tokens",
    ),
    # The numbers refined share out r <= 2500 at 16K and r <= 4096 beyond.
    "ladder-16k": long_case(16384, 5, 92, 150),
    "ladder-64k": long_case(65536, 3, 124, 180),
    "ladder-128k": long_case(131072, 3, 105, 180),
    "length": Case(
        "long",
        [ladder(131072, 75, 125), ladder(65536, 170, 176), ladder(32768, 200, 219), ladder(16384, 190, 266)],
        heading="the same number of rows at growing lengths",
        profiled=4,
    ),
}
