"""The library with CPU and CUDA operators in ONNX Runtime, on a machine without a GPU: converted models give what they give without CUDA.

    python drivers.py LIBRARY CPU_LIBRARY MOCK FOLDER

LIBRARY was built with CUDA kernels, CPU_LIBRARY without, MOCK is made from mock_driver.cpp, FOLDER holds converted models (NAME.vcc.onnx).
The library finds as `libcuda.so.1`: nothing, drivers that are too old, one without a device, one with a device. In each case every output must
have the same bits as with CPU_LIBRARY, and there must be a warning exactly where a driver is too old. Where ONNX Runtime has the CUDA execution
provider it is asked for, and the operators are registered for both; it cannot be had here. Where ONNX Runtime has no CUDA, no driver may be opened.
"""

import ctypes
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

import onnxruntime as ort

sys.dont_write_bytecode = True  # no cache beside the sources
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../tools"))

CUDA = "CUDAExecutionProvider" in ort.get_available_providers()
# A driver of CUDA 11.4: most functions that the library needs came later.
OLD_DRIVER = "extern \"C\" int cuDriverGetVersion(int* version) { *version = 11040; return 0; }\n"


def run(library, folder, out):
    """Runs all converted models, and tells what became of the driver."""
    import numpy as np
    from run_converted import feeds, open_session

    results = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.vcc.onnx"))):
        session = open_session(path, library, half=True)
        for length in (37, 120):
            rng = np.random.default_rng(length)
            for at, value in enumerate(session.run(None, feeds(session, 2, length, rng))):
                results[f"{os.path.basename(path)}-{length}-{at}"] = value
    assert results, "no models"
    np.savez(out, **results)
    with open("/proc/self/maps") as maps:
        opened = "libcuda.so.1" in maps.read()
    operators = ctypes.CDLL(library)
    operators.VccCudaStatus.restype = ctypes.c_char_p
    print(json.dumps({"opened": opened, "status": operators.VccCudaStatus().decode()}))


def child(library, models, out, driver, **variables):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("VCC_CUDA", "VCC_MOCK", "LD_LIBRARY_PATH"))}
    environment.update(LD_LIBRARY_PATH=driver, **variables)
    command = [sys.executable, __file__, library, models, out]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{driver}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    warnings = [line for line in done.stderr.splitlines() if line.startswith("vcc_ops:")]
    return json.loads(done.stdout.splitlines()[-1]), warnings


def main(library, cpu_library, mock, models):
    with tempfile.TemporaryDirectory() as folder:
        drivers = {name: os.path.join(folder, name) for name in ("none", "old", "new")}
        for driver in drivers.values():
            os.mkdir(driver)
        shutil.copy(mock, os.path.join(drivers["new"], "libcuda.so.1"))
        source, old = os.path.join(folder, "old.cpp"), os.path.join(drivers["old"], "libcuda.so.1")
        with open(source, "w") as file:
            file.write(OLD_DRIVER)
        subprocess.run(["g++", "-shared", "-fPIC", "-o", old, source], check=True)
        want = os.path.join(folder, "cpu.npz")
        _, warnings = child(cpu_library, models, want, drivers["new"])
        assert not warnings, warnings
        with open(want, "rb") as file:
            want = file.read()
        cases = {
            "none": (drivers["none"], {}, False, "libcuda.so.1 cannot be used"),
            "old": (drivers["old"], {}, True, "no CUDA kernels: the driver is of CUDA 11.4; they need CUDA 13.0 (driver 580) or newer"),
            "12.4": (drivers["new"], {"VCC_MOCK_VERSION": "12040"}, True, "no CUDA kernels: the driver is of CUDA 12.4; they need CUDA 13.0"),
            "no device": (drivers["new"], {"VCC_MOCK_INIT": "100"}, False, "no device: the driver does not start: CUDA_ERROR_NO_DEVICE (100)"),
            "device": (drivers["new"], {}, False, "CUDA kernels, driver of CUDA 13.0, devices: 1"),
        }
        for name, (driver, variables, warns, status) in cases.items():
            out = os.path.join(folder, "out.npz")
            said, warnings = child(library, models, out, driver, **variables)
            with open(out, "rb") as file:
                assert file.read() == want, f"{name}: other bits than without CUDA"
            assert len(warnings) == (warns and CUDA), f"{name}: {warnings}"
            assert all(status in warning for warning in warnings), f"{name}: {warnings}"
            # A real driver of the machine may be found where the case has none.
            if name != "none" or not said["opened"]:
                assert status in said["status"], f"{name}: {said['status']}"
                # One that is too old is closed again.
                assert said["opened"] == (CUDA and name in ("device", "no device")), f"{name}: driver in use: {said['opened']}"
    print(f"ok: ONNX Runtime {ort.__version__}, {'CPU and CUDA operators' if CUDA else 'CPU operators only'}, {len(cases)} drivers", flush=True)


if __name__ == "__main__":
    (run if len(sys.argv) == 4 else main)(*sys.argv[1:])
