"""Breaks the rules of the analysis and of the passes, one at a time, and runs the tests: each time one must fail.

    python tools/mutate.py [NAME ..]

Works on a copy of the last commit in target/mutants; takes about a minute for each rule. The tests need ONNX Runtime, the operator
library and a Python with onnx and onnxruntime as `cargo xtask test` provides them: ORT_DYLIB_PATH and VCC_OPS_LIB name the first two.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutants"
# Its own: cargo does not tell the crates of two copies apart that share one.
BUILD = ROOT / "target" / "mutants-build"
TESTS = ["conversion", "refusals", "golden", "sharp", "check", "hoist", "windows", "pooled"]

AXES = "crates/token-axes/src"
# name: file, what is there, what takes its place
RULES = {
    "accept-causal-masks": (
        f"{AXES}/masks.rs",
        "match is_one_sided(samples, external, &node.op_type, first, second) {",
        "match is_one_sided(samples, external, &node.op_type, first, second).map(|_| false) {",
    ),
    "accept-faint-causal-masks": (
        f"{AXES}/masks.rs",
        "    step || pairs().any(",
        "    (step && n == 0) || pairs().any(",
    ),
    "count-no-tokens": (
        f"{AXES}/interp/evaluate.rs",
        "Fill::Counts if self.is_per_batch_row(v) => {",
        "Fill::Counts if self.is_per_batch_row(v) && n == 0 => {",
    ),
    "trust-samples-that-hide-a-mask": (
        f"{AXES}/masks.rs",
        "self.seen != [false; 2] && self.seen == self.both",
        "self.seen != [false; 2]",
    ),
    "trust-comparisons-of-inputs": (
        f"{AXES}/masks.rs",
        "if compares_inputs(graph, samples, external.value) {",
        "if compares_inputs(graph, samples, external.value) && core.is_empty() {",
    ),
    "turn-the-padding-mask-round": (
        "passes/src/partition.rs",
        "    if mask.zero_is_valid {",
        "    if !mask.zero_is_valid {",
    ),
    "accept-convolutions-over-tokens": (
        f"{AXES}/flow/products.rs",
        'if kernel != Some(true) || !ones("strides") || !zeros {',
        'if kernel != Some(true) && !ones("strides") && !zeros {',
    ),
    "sum-tokens-without-a-softmax": (
        f"{AXES}/flow/products.rs",
        "if has_batch(axis) || carriers < 2 || !axis.iter().any(|f| f.role == Role::Attended) {",
        "if has_batch(axis) {",
    ),
    "split-the-tokens": (
        f"{AXES}/layout.rs",
        "} else if factor.role == Role::Feature {",
        "} else if factor.role != Role::Batch {",
    ),
    "merge-axes-in-the-wrong-order": (
        f"{AXES}/layout.rs",
        "                axis.push(factor);\n",
        "                axis.insert(0, factor);\n",
    ),
    "forget-that-values-are-read-outside": (
        f"{AXES}/blocks.rs",
        "            if value == output {\n                continue;\n            }\n            let refuse",
        "            if value == output || id.eq(&id) {\n                continue;\n            }\n            let refuse",
    ),
    "leave-externals-at-all-tokens": (
        "passes/src/externals.rs",
        "e.graph.set_input(instance.node, i, Some(taken.value));",
        "e.graph.set_input(instance.node, i, Some(external.value));",
    ),
    "a-number-on-the-device-is-one-more": (
        "passes/src/transfers.rs",
        'let vector = e.op("Range", &[start, end, one], &[]);',
        'let more = e.op("Add", &[end, one], &[]);\n    let vector = e.op("Range", &[end, more, one], &[]);',
    ),
    "keep-stale-reshapes": (
        "passes/src/shapes.rs",
        "            let target = e.target(&one_inferred(&sizes));\n            e.graph.set_input(node, 1, Some(target));",
        "            let _ = e.target(&one_inferred(&sizes));",
    ),
    "keep-stale-expands": (
        "passes/src/shapes.rs",
        "            let target = e.target(&sizes);\n            e.graph.set_input(node, 1, Some(target));",
        "            let _ = e.target(&sizes);",
    ),
    "skip-the-bias-of-counts": (
        "passes/src/insert.rs",
        "e.graph.set_input(axes.softmax, 0, Some(biased));",
        "let _ = biased;",
    ),
    "forget-hidden-states": (
        "passes/src/insert.rs",
        ".map(|i| is_read_elsewhere(&c.model.graph, reach, &blocks[i], blocks.get(i + 1)))",
        ".map(|i| i == blocks.len() && is_read_elsewhere(&c.model.graph, reach, &blocks[i], blocks.get(i + 1)))",
    ),
    "read-the-first-text-of-the-batch": (
        "passes/src/insert.rs",
        'let flat = e.op("Add", &[row_token, encoder.base], &[]);',
        "let flat = row_token;",
    ),
    "select-in-order": (
        "passes/src/select.rs",
        "    e.graph.set_input(s.node, 0, Some(scores));\n",
        "    let _ = scores;\n",
    ),
    "see-past-the-last-window": (
        "passes/src/local.rs",
        'let bias = e.op("Where", &[exists, plain, blocked], &[]);',
        'let bias = e.op("Where", &[exists, plain, plain], &[]);\n    let _ = blocked;',
    ),
    "drop-the-mask-of-a-fused-attention": (
        "passes/src/restore.rs",
        'Some(mask) => e.op("Add", &[mask, total], &[]),',
        "Some(_) => total,",
    ),
    "count-read-tokens-from-the-wrong-slot": (
        "passes/src/prune.rs",
        'let offset = e.op("Sub", &[slot, p.slots], &[]);',
        'let offset = e.op("Sub", &[slot, roots], &[]);',
    ),
    "give-tokens-of-a-segment-its-row": (
        "passes/src/prune.rs",
        'e.op("Where", &[is_own, y, moved], &[])',
        'e.op("Where", &[is_own, y, y], &[])',
    ),
    "follow-any-reader-to-its-tokens": (
        "passes/src/demand.rs",
        "        if meets_tokens || flow.operand.is_some()",
        "        if flow.operand.is_some()",
    ),
    "let-few-rows-share-the-scale-of-all": (
        "passes/src/prune.rs",
        "if !axes.flows.values().all(|f| f.outputs.iter().all(has_rows)) {",
        "if !axes.flows.values().any(|f| f.outputs.iter().all(has_rows)) {",
    ),
    "weigh-all-rows-alike-in-a-sum": (
        "passes/src/mean.rs",
        'let mut weight = e.op("Relu", &[count], &[]);',
        'let mut weight = e.op("Sign", &[count], &[]);',
    ),
    "take-any-mean-for-one-of-valid-tokens": (
        "passes/src/mean.rs",
        "name => Some(graph.find_value(name)?),",
        "name => Some(graph.find_value(name)?).filter(|_| name.is_empty()),",
    ),
}


def cargo(*arguments: str) -> subprocess.CompletedProcess:
    tests = [argument for test in TESTS for argument in ("--test", test)]
    command = ["cargo", "test", "--quiet", "-p", "token-axes", "-p", "vcc-cli", "--lib", "--bins", *tests, *arguments]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(BUILD)}
    return subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True)


def failures() -> list[str]:
    """The tests that fail; hand-made encoders only if no other does."""
    ran = cargo("--no-fail-fast")
    if ran.returncode:
        return sorted({line.split()[1] for line in ran.stdout.splitlines() if line.startswith("---- ")})
    forms = ["crates/vcc-cli/tests/forms.py", "--converter", str(BUILD / "debug/vcc-convert")]
    forms += ["--library", os.environ["VCC_OPS_LIB"]]
    return ["forms.py"] if subprocess.run([sys.executable, *forms], cwd=COPY, capture_output=True).returncode else []


def main(names: list[str]) -> int:
    if not COPY.exists():
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(COPY)], cwd=ROOT, check=True)
    unnoticed = []
    try:
        for name in names or RULES:
            file, old, new = RULES[name]
            text = (COPY / file).read_text()
            if text.count(old) != 1:
                sys.exit(f"{name}: {file} has `{old.strip()}` {text.count(old)} times; state the rule as it is now")
            (COPY / file).write_text(text.replace(old, new))
            try:
                built = cargo("--no-run")
                if built.returncode != 0:
                    sys.exit(f"{name}: does not compile\n{built.stderr}")
                failed = failures()
            finally:
                (COPY / file).write_text(text)
            print(f"{name}: {'noticed by ' + ', '.join(failed) if failed else 'NOT NOTICED'}", flush=True)
            unnoticed += [] if failed else [name]
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(COPY)], cwd=ROOT, check=True)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
