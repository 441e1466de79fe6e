"""The report as Markdown."""

import platform
import statistics
from pathlib import Path

ORIGINALS = {"as it is": "ONNX Runtime, as it is", "fused": "ONNX Runtime, fused", "sdpa": "PyTorch, sdpa"}


def machine(threads):
    import onnxruntime
    import torch

    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": f"{len(models)} x {models[0]}",
        "threads": threads,
        "system": platform.platform(),
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
    }


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def others(figures):
    """How many cores everything else kept busy while the model ran."""
    return statistics.mean(run["others"] for run in figures["runs"])


def vcc_share(figures):
    times = figures["operators"]
    ours = sum(op["seconds"] for name, op in times.items() if name.startswith("Vcc"))
    return ours / sum(op["seconds"] for op in times.values())


def summary(cases):
    rows = []
    for name, case in cases.items():
        models = case["models"]
        found = [(label, figures) for label, figures in models.items() if figures.get("kind") == "converted"]
        original = min((m["seconds"], label) for label, m in models.items() if label in ORIGINALS) if originals(models) else None
        theirs = models.get("authors")
        for label, m in found:
            best = f"{original[0]:.2f} ({ORIGINALS[original[1]]})" if original else "-"
            rows.append(
                [
                    name if label == "converted" else f"{name}, {label}",
                    m["tokens"],
                    m["plan"],
                    m["rows"],
                    best,
                    f"{theirs['seconds']:.2f}" if theirs else "-",
                    f"{m['seconds']:.2f}",
                    f"{original[0] / m['seconds']:.2f}x" if original else "-",
                    f"{theirs['seconds'] / m['seconds']:.2f}x" if theirs else "-",
                    f"{models[original[1]]['peak_mb']:.0f}" if original else "-",
                    f"{m['peak_mb']:.0f}",
                    f"{m['alone'] / m['seconds']:.1%}" if "alone" in m else "-",
                    f"{vcc_share(m):.1%}" if "operators" in m else "-",
                ]
            )
    header = ["case", "tokens", "plan", "rows", "best original, s", "authors' form, s", "converted, s", "against the original"]
    header += ["against the authors'", "peak MB, original", "converted", "products and attention alone", "Vcc operators"]
    return table(header, rows)


def originals(models):
    return [label for label in models if label in ORIGINALS]


def details(case):
    models = case["models"]
    first = next(m for m in models.values() if m.get("kind") == "converted")
    rows = [
        [
            ORIGINALS.get(label, {"authors": "the authors' form, exported"}.get(label, label)),
            m.get("tokens", ""),
            m.get("plan", ""),
            m.get("rows", ""),
            f"{m['seconds']:.3f}",
            f"{min(r['seconds'] for r in m['runs']):.3f} - {max(r['seconds'] for r in m['runs']):.3f}",
            f"{m['seconds'] / first['seconds']:.2f}",
            f"{m['cpu']:.2f}",
            f"{m['peak_mb']:.0f}",
            f"{others(m):.2f}",
        ]
        for label, m in models.items()
    ]
    header = ["model", "tokens", "plan", "rows", "s, median", "s, all", "to the first converted", "processor s", "peak MB"]
    return table(header + ["cores busy with other things"], rows)


def operators(case):
    """Milliseconds per call of our operators, for each model that was profiled."""
    profiled = {label: m for label, m in case["models"].items() if "operators" in m}
    names = sorted({op for m in profiled.values() for op in m["operators"] if op.startswith("Vcc")})
    rows = []
    for name in names:
        times = [m["operators"].get(name) for m in profiled.values()]
        calls = next(t["calls"] for t in times if t)
        rows.append([name, calls, *(f"{1000 * t['seconds'] / t['calls']:.2f}" if t else "-" for t in times)])
    rows.append(["all, share of the time", "", *(f"{vcc_share(m):.1%}" for m in profiled.values())])
    header = ["operator, ms per call", "calls per run"]
    return table(header + [f"{m['tokens']} tokens, {m['rows']} rows" for m in profiled.values()], rows)


def exactness(found):
    rows = []
    for name, case in found.items():
        report = case["report"]
        rows.append([name, *([report["verdict"], f"{report['max_rel']:.1e}"] if report else [f"exit code {case['status']}", "-"])])
    return table(["model", "4096 tokens, full budget", "largest relative difference"], rows)


def markdown(report):
    m = report["machine"]
    text = f"{m['processor']}, {m['threads']} threads, {m['system']}, ONNX Runtime {m['onnxruntime']}, PyTorch {m['torch']}.\n\n"
    text += summary(report["cases"])
    for name, case in report["cases"].items():
        text += f"\n## {name}: {case['heading']}\n\n{details(case)}\n{operators(case)}"
    if "exact" in report:
        text += f"\n## Full budget\n\n{exactness(report['exact'])}"
    rows = [[name, *(f"{value:.1e}" for value in found.values())] for name, found in report["golden"].items()]
    header = ["golden vectors: relative difference", "PyTorch, full", "the authors' form", "exported"]
    return text + f"\n## The authors' form is theirs\n\n{table(header, rows)}"
