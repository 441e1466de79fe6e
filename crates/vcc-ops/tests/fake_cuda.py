"""Builds the CUDA libraries that ONNX Runtime of this Python needs for its CUDA execution provider, without CUDA: see fake_cuda.cpp.

    python fake_cuda.py FOLDER INCLUDE

INCLUDE holds the headers of the CUDA runtime. In FOLDER, which then belongs on LD_LIBRARY_PATH, all libraries are names of one file. Which
functions they must have, and under which versions, is read from the provider's own library.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = ["fake_cuda.cpp", "mock_driver.cpp", "../cuda/emulator/entries.cpp", "../cuda/emulator/fibers.cpp"]
# As in `cargo xtask test` for the stand-in of the driver.
FLAGS = "-std=c++17 -O2 -fPIC -fvisibility=hidden -fno-strict-aliasing -ffp-contract=off -Wno-unknown-pragmas -DVCC_FAKE_RUNTIME".split()
# Names of libraries that ask for no version; the last two are opened when they are first used, and their functions looked up by name.
NAMES = ("libcuda.so.1", "libcurand.so.10", "libcudnn.so.9", "libcufft.so.12")


def provider():
    package = Path(importlib.util.find_spec("onnxruntime").origin).parent
    return package / "capi/libonnxruntime_providers_cuda.so"


def nm(path, *options):
    lines = subprocess.run(["nm", *options, path], check=True, capture_output=True, text=True).stdout.splitlines()
    return [line.split()[-1] for line in lines]


def needed(library):
    """The functions of CUDA that a library links, by the version that it wants, which is the name of a library too."""
    found = {}
    for symbol in nm(library, "-D", "--undefined-only"):
        name, _, version = symbol.partition("@")
        if version.startswith("libcu"):
            found.setdefault(version, []).append(name)
    return found


def looked_up(library):
    """What may be a function of cuDNN or cuFFT among the library's texts."""
    return {name.decode() for name in re.findall(rb"\0(cu(?:dnn|fft)[A-Z]\w+)(?=\0)", library.read_bytes())}


def build(folder, include):
    folder.mkdir(parents=True, exist_ok=True)
    objects = []
    for source in SOURCES:
        objects.append(folder / (Path(source).stem + ".o"))
        subprocess.run(["g++", *FLAGS, "-isystem", include, "-c", HERE / source, "-o", objects[-1]], check=True)
    written = {name for path in objects for name in nm(path, "--defined-only")}
    versions = needed(provider())
    stubs = folder / "stubs.cpp"
    with open(stubs, "w") as file:
        file.write('#include <cstddef>\nsize_t vcc_fake_stub(const char*);\n#define STUB(name) extern "C" size_t name() { return vcc_fake_stub(#name); }\n')
        wanted = {"cuTensorMapEncodeTiled", *looked_up(provider())}.union(*versions.values())
        file.writelines(f"STUB({name})\n" for name in sorted(wanted - written))
    script = folder / "versions"
    with open(script, "w") as file:
        for version, names in versions.items():
            file.write(f"{version} {{ global: {' '.join(f'{name};' for name in names)} }};\n")
        file.write("others { global: cu*; vcc_mock_*; vcc_fake_calls; local: *; };\n")
    library = folder / "libfake_cuda.so"
    command = ["g++", "-shared", "-fPIC", f"-Wl,--version-script={script}", "-o", library, *objects, stubs]
    subprocess.run(command, check=True)
    for name in (*NAMES, *versions):
        if not (folder / name).exists():
            os.symlink(library.name, folder / name)


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
