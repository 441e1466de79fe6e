"""The C++ of README.md and docs/deploy.md compiles and links; what README.md shows runs a converted model, with the results that Python gets.

    python snippets.py HEADERS LIBONNXRUNTIME LIBRARY MODEL

MODEL is a converted one whose inputs are [batch, tokens] in int64.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort

HEADERS, RUNTIME, LIBRARY, MODEL = map(os.path.abspath, sys.argv[1:])
ROOT = Path(__file__).resolve().parents[3]
TOKENS = 64

# Every input is 1, 1, 0, 1, 1, 0, ..., which ids, types and masks may be; the first output goes to stdout as it is in memory.
RUN = """
  Ort::AllocatorWithDefaultOptions allocator;
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<int64_t> tokens(TOKENS);
  for (int i = 0; i < TOKENS; i++) tokens[i] = i % 3 < 2;
  const int64_t shape[] = {1, TOKENS};
  std::vector<std::string> names = session.GetInputNames();
  std::vector<const char*> inputs;
  std::vector<Ort::Value> values;
  for (const auto& name : names) {
    inputs.push_back(name.c_str());
    values.push_back(Ort::Value::CreateTensor<int64_t>(memory, tokens.data(), tokens.size(), shape, 2));
  }
  const std::string output = session.GetOutputNames()[0];
  const char* outputs[] = {output.c_str()};
  const auto made = session.Run(Ort::RunOptions{}, inputs.data(), values.data(), values.size(), outputs, 1);
  std::fwrite(made[0].GetTensorData<float>(), sizeof(float), made[0].GetTensorTypeAndShapeInfo().GetElementCount(), stdout);
"""


def blocks(page):
    return [block.split("```")[0] for block in (ROOT / page).read_text().split("```cpp\n")[1:]]


def compiled(folder, name, body):
    """A program with the block as its main function."""
    source, program = folder / f"{name}.cpp", folder / name
    includes = "".join(f"#include <{header}>\n" for header in ("onnxruntime_cxx_api.h", "cstdio", "string", "vector"))
    source.write_text(f"{includes}int main() {{\n{body}\n}}\n")
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-DTOKENS={TOKENS}", "-isystem", HEADERS]
    command = ["g++", *flags, source, "-o", program, RUNTIME]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{name}:\n{done.stderr}"
    return program


def main():
    (readme,), deploy = blocks("README.md"), blocks("docs/deploy.md")
    assert len(deploy) == 2, deploy
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        compiled(folder, "deploy", "\n".join(["Ort::Env env;", "Ort::Value tokens{nullptr};", *deploy]))
        program = compiled(folder, "readme", readme + RUN)
        # The names that the block uses.
        shutil.copy(LIBRARY, folder / "libvcc_ops.so")
        shutil.copy(MODEL, folder / "model.vcc.onnx")
        # The wheel's file has another name than the one that programs look for.
        shutil.copy(RUNTIME, folder / "libonnxruntime.so.1")
        done = subprocess.run([program], cwd=folder, env={**os.environ, "LD_LIBRARY_PATH": work}, capture_output=True)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        options = ort.SessionOptions()
        options.register_custom_ops_library(LIBRARY)
        session = ort.InferenceSession(folder / "model.vcc.onnx", options, providers=["CPUExecutionProvider"])
        tokens = (np.arange(TOKENS) % 3 < 2).astype(np.int64)[None]
        expected = session.run(None, {port.name: tokens for port in session.get_inputs()})[0]
        got = np.frombuffer(done.stdout, np.float32)
        assert np.isfinite(expected).all() and np.array_equal(got, expected.ravel()), f"{got} {expected}"
    print("ok", flush=True)


if __name__ == "__main__":
    main()
