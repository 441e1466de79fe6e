"""Random well-formed encoders: each converts completely, equals its original at full budget, and at a small one in all forms.
With something unsound put into them (a causal mask in disguise, shifted tokens ..) their blocks must be refused.

    python crates/vcc-cli/tests/random_encoders.py --converter vcc-convert --library libvcc_ops.so --seeds 0-59
    python crates/vcc-cli/tests/random_encoders.py ... --seeds 17 --only 'mask=given layout=NBD' --keep folder

A failing encoder is shrunk: its choices are made plain one by one as long as it fails in the same way. What is printed then builds
the smallest failing one again.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile

import numpy as np
from encoders.check import Failure, Tools, check, check_unsound
from encoders.choices import KNOWN, ONCE, PLAIN, avoid, draw, parse, unlike_plain, written
from encoders.unsound import UNSOUND, Mutation

PROCESSES = multiprocessing.get_context("fork")


def judge(results, tools, choices, seed, mutation):
    uncompared = 0, 0
    try:
        if mutation:
            check_unsound(tools, choices, seed, mutation)
        else:
            uncompared = check(tools, choices, seed)
        results.send(uncompared)
    except Failure as failed:
        results.send(failed)


def outcome(tools, choices, seed, mutation):
    """How the encoder of these choices fails; if all is well, in how many cases a small budget was not compared, or not everywhere
    (see `check`). In a process of its own, which a model may end."""
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=judge, args=(sender, tools, choices, seed, mutation))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        return Failure("CRASH", f"the process ended with {process.exitcode}")
    process.join()
    return result


def shrink(tools, choices, seed, mutation, failed):
    """The choices made plain as far as it fails in the same way."""
    progress = True
    while progress:
        progress = False
        for name in unlike_plain(choices):
            simpler = choices | {name: PLAIN[name]}
            again = outcome(tools, simpler, seed, mutation)
            if isinstance(again, Failure) and again.kind == failed.kind:
                choices, failed, progress = simpler, again, True
    return choices, failed


def drawn_mutation(choices, seed, name):
    """The mutation of this name, or a drawn one that suits the opset; its block and place are drawn."""
    random = np.random.default_rng(seed + 1_000_000)
    suitable = [other for other, (_, _, since, _) in UNSOUND.items() if choices["opset"] >= since]
    name = name or suitable[random.integers(len(suitable))]
    block = int(random.integers(choices["blocks"])) if random.uniform() < 0.5 else None
    return Mutation(name, block, ("attention", "feedforward")[random.integers(2)])


class Tally:
    """Counts what passed, and shrinks and prints what did not."""

    def __init__(self, tools, shrinking):
        self.tools, self.shrinking = tools, shrinking
        self.passed = self.failed = self.ties = self.untold = 0

    def judge(self, choices, seed, mutation=None):
        failed = outcome(self.tools, choices, seed, mutation)
        if not isinstance(failed, Failure):
            self.passed += 1
            ties, untold = failed
            self.ties, self.untold = self.ties + ties, self.untold + untold
            return
        self.failed += 1
        if self.shrinking:
            choices, failed = shrink(self.tools, choices, seed, mutation, failed)
        unsound = f" --unsound {mutation.name}" if mutation else ""
        print(f"FAILED {failed}\n  --seeds {seed} --only '{written(choices)}'{unsound}", flush=True)

    def known(self, choices, kind):
        """An encoder that fails as yet: when it passes, or fails in another way, the list is out of date."""
        failed = outcome(self.tools, PLAIN | choices, 0, None)
        if isinstance(failed, Failure) and failed.kind == kind:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {written(PLAIN | choices)}: listed as {kind}, but: {failed if isinstance(failed, Failure) else 'passes'}", flush=True)


def numbers(text):
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--converter", required=True)
    parser.add_argument("--library", required=True)
    parser.add_argument("--seeds", type=numbers, default=range(60), metavar="FIRST[-LAST]")
    parser.add_argument("--kind", choices=["sound", "unsound", "both"], default="both", help="as drawn, with something unsound in it, or both")
    parser.add_argument("--only", type=parse, help="the choices of one encoder as printed, instead of drawn ones")
    parser.add_argument("--with", type=parse, default={}, dest="fixed", help="choices that every drawn encoder gets")
    parser.add_argument("--unsound", choices=UNSOUND, help="this in place of a drawn one")
    parser.add_argument("--without", type=parse, action="append", default=[], help="choices that are not to occur together")
    parser.add_argument("--keep", help="a folder for the models of the last encoder")
    parser.add_argument("--no-shrink", action="store_true")
    arguments = parser.parse_args()
    kind = "sound" if arguments.only is not None and not arguments.unsound else arguments.kind
    kind = "unsound" if arguments.unsound else kind
    with tempfile.TemporaryDirectory() as folder:
        if arguments.keep:
            os.makedirs(arguments.keep, exist_ok=True)
        tally = Tally(Tools(arguments.converter, arguments.library, arguments.keep or folder), not arguments.no_shrink)
        if arguments.only is None:
            for combination, more, how in KNOWN:
                tally.known({name: options[0] for name, options in combination.items()} | more, how)
            for choices in ONCE:
                tally.judge(PLAIN | choices, 0)
        for seed in arguments.seeds:
            if arguments.only is not None:
                choices = PLAIN | arguments.only
            else:
                without = [{name: (option,) for name, option in item.items()} for item in arguments.without]
                choices = avoid(draw(seed) | arguments.fixed, [*(combination for combination, _, _ in KNOWN), *without])
            if kind != "unsound":
                tally.judge(choices, seed)
            if kind != "sound":
                # In few tokens, or over a batch of one, many of them would change nothing.
                choices = choices | {"batch": None, "length": None}
                tally.judge(choices, seed, drawn_mutation(choices, seed, arguments.unsound))
    if tally.ties:
        print(f"in {tally.ties} cases selections are near-ties whatever the inputs, and forms were not compared")
    if tally.untold:
        print(f"in {tally.untold} cases the original gives NaN for tokens that a small budget was not compared at")
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
