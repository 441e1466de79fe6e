"""Makes what is measured: the originals, what ONNX Runtime's optimiser makes of them, the authors' form, converted models, inputs."""

import subprocess
import sys
from pathlib import Path

import numpy as np

HEADS = 12
WIDTH = 768
VOCABULARY = 8000
TOOLS = Path(__file__).resolve().parents[1]

# Arguments of make_roberta.py: `long` has a table of positions for 128K tokens, which is half of the file.
ROBERTAS = {
    "pre-norm": ["--pre-norm", "--length", "16384"],
    "post-norm": ["--length", "4096"],
    "long": ["--pre-norm", "--length", "131072"],
}


def original(name, folder):
    """The model of that name, made if it is not there."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        print(f"  making {path.name}", flush=True)
        draft = folder / "draft.onnx"
        if name == "t5":
            t5(draft)
        else:
            subprocess.run([sys.executable, TOOLS / "make_roberta.py", "-o", draft, *ROBERTAS[name]], check=True)
        draft.rename(path)
    return path


def t5(path):
    """A T5-base encoder of transformers with random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=64, d_ff=3072, num_layers=12, num_heads=HEADS, use_cache=False
    )
    model = transformers.T5EncoderModel(config).eval()
    # Weights of norms that are all 1 would become one weight in the file.
    for name, weight in model.named_parameters():
        if name.endswith("layer_norm.weight"):
            torch.nn.init.normal_(weight, 1.0, 0.05)
    ids = torch.randint(5, VOCABULARY, (2, 33))
    tokens = {0: "batch", 1: "sequence"}

    class Tuple(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    module = Tuple()
    module.model = model
    torch.onnx.export(
        module,
        (ids, torch.ones_like(ids)),
        str(path),
        input_names=["input_ids", "attention_mask"],
        output_names=["last_hidden_state"],
        dynamic_axes={name: tokens for name in ("input_ids", "attention_mask", "last_hidden_state")},
        opset_version=17,
        dynamo=False,
    )


def fused(model, path):
    """As onnxruntime.transformers.optimizer fuses it. Its model type t5 ends in an operator that has no CPU kernel
    (RelativePositionBias), so T5 is fused as a BERT too: its norms are, its attentions stay apart."""
    from onnxruntime.transformers import optimizer

    found = optimizer.optimize_model(str(model), model_type="bert", num_heads=HEADS, hidden_size=WIDTH)
    found.save_model_to_file(str(path))
    counts = {name: count for name, count in found.get_fused_operator_statistics().items() if count}
    print(f"  fused: {counts}", flush=True)


def authors(model, plan, feeds, path):
    """The authors' form of the model under that plan, exported to ONNX."""
    from encoders import Authors, Encoder
    from export import export
    from weights import Weights

    (segment, _), (refined,) = plan.ladder, plan.refine
    module = Authors(Encoder(Weights(model), HEADS), plan.local_blocks, plan.WINDOW, plan.vip, segment, refined)
    export(module.eval(), feeds, path)


def converted(model, plan, binaries, path):
    command = [binaries / "vcc-convert", model, "-o", path, "--vip", f"first:{plan.vip}"]
    command += ["--ladder", ",".join(map(str, plan.ladder)), "--refine", ",".join(map(str, plan.refine)), "--blocks", plan.blocks()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def inputs(n, vip, path):
    """Random tokens without padding; `vip` is what the authors' form is told of the important ones."""
    ids = np.random.default_rng(n).integers(5, VOCABULARY, (1, n))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "vip": (np.arange(n) < vip)[None].astype(np.int64)}
    np.savez(path, **feeds)
    return feeds
