"""tools/gpu_check.py where there is no GPU: its steps on the CPU execution provider with a stand-in for the driver, and what it does when they fail.

    python gpu_check_stand_in.py LIBRARY CONVERTER MOCK
"""

import glob
import os
import subprocess
import sys

LIBRARY, CONVERTER, MOCK = sys.argv[1:]
SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../tools/gpu_check.py")


def check(*options, converter=CONVERTER, **variables):
    """The exit code and the table's rows."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("VCC_CUDA", "VCC_MOCK"))}
    command = [sys.executable, "-B", SCRIPT, "--library", LIBRARY, "--converter", converter, *options]
    done = subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line.startswith("| ")]
    return done.returncode, rows[1:], done.stdout + done.stderr


def main():
    if not glob.glob("/dev/nvidia[0-9]*"):
        code, _, said = check()
        assert code == 3 and "no GPU here" in said, said
    mocked = {"VCC_CUDA_MOCK": MOCK}
    steps = "status,operators,memcheck,models,copies,graph,bandwidth,roberta-4k,t5-16k,ladder-128k"
    code, rows, said = check("--stand-in", "--only", steps, **mocked)
    assert code == 0, said
    assert [row[0] for row in rows if row[2] == "ok"] and {row[0] for row in rows} == set(steps.split(",")), said
    # What this Python or this machine does not have is told, and nothing else is left out.
    left_out = [row for row in rows if row[2] != "ok"]
    assert all("nvidia-smi" in row[3] or "compute-sanitizer" in row[3] or "sympy" in row[3] for row in left_out), left_out
    # A step that cannot do its work is a line, and the next one runs.
    code, rows, said = check("--stand-in", "--only", "models,status", converter="/bin/false", **mocked)
    assert code == 1 and {row[2] for row in rows if row[0] == "models"} == {"FAILED"}, said
    assert [row[2] for row in rows if row[1] == "library"] == ["ok"], said
    # So is one that crashes: the library is none.
    code, rows, said = check("--stand-in", "--only", "status,operators", VCC_CUDA_MOCK="/no/such/driver.so")
    assert code == 1 and ["status", "library", "FAILED"] in [row[:3] for row in rows], said
    print("ok", flush=True)


if __name__ == "__main__":
    main()
