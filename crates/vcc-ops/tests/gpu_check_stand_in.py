"""tools/gpu_check.py where there is no GPU: its steps on the CPU execution provider with a stand-in for the driver, and what it does when they fail.

    python gpu_check_stand_in.py LIBRARY CONVERTER MOCK
"""

import glob
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIBRARY, CONVERTER, MOCK = sys.argv[1:]
SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../tools/gpu_check.py")


def check(*options, converter=CONVERTER, until=None, **variables):
    """The exit code, the table's rows, and all that was said. When `until` is true the script is ended."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("VCC_CUDA", "VCC_MOCK"))}
    command = [sys.executable, "-B", SCRIPT, "--library", LIBRARY, "--converter", converter, *options]
    started = subprocess.Popen(command, env={**environment, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while until and not until():
        time.sleep(0.1)
    if until:
        started.send_signal(signal.SIGTERM)
    said, progress = started.communicate()
    return started.returncode, rows_of(said), said + progress


def rows_of(table):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")]
    return rows[1:]


def ends(folder, mocked):
    """Steps that would never end: under a limit for all, and ended from outside."""
    slow, pid, table = folder / "slow", folder / "pid", folder / "table.md"
    slow.write_text(f"#!/bin/sh\necho $$ > {pid}\nexec sleep 1000\n")
    slow.chmod(0o755)
    options = ("--stand-in", "--only", "status,models,copies", "--table", str(table))
    for limit, until in ((("--minutes", "0.6"), None), ((), pid.exists)):
        code, rows, said = check(*options, *limit, converter=str(slow), until=until, **mocked)
        assert rows[0][2] == "ok" and rows[-1] == ["copies", "", "not run", "ended from outside" if until else "no time is left"], said
        if not until:
            assert code == 1 and [row[2] for row in rows if row[0] == "models"] == ["FAILED"] and "took more than" in said, said
            assert rows_of(table.read_text()) == rows, said
        process = Path(f"/proc/{int(pid.read_text())}/stat")
        # Nothing goes on, but for what waits to be reaped.
        assert not process.exists() or process.read_text().split()[2] == "Z", "what a step started goes on"
        pid.unlink()


def main():
    if not glob.glob("/dev/nvidia[0-9]*"):
        code, _, said = check()
        assert code == 3 and "no GPU here" in said, said
    mocked = {"VCC_CUDA_MOCK": MOCK}
    steps = "status,operators,memcheck,models,copies,graph,bandwidth,roberta-4k,t5-16k,ladder-128k"
    code, rows, said = check("--stand-in", "--only", steps, **mocked)
    assert code == 0, said
    assert [row[0] for row in rows if row[2] == "ok"] and {row[0] for row in rows} == set(steps.split(",")), said
    # What this machine does not have is told, and nothing else is left out.
    left_out = [row for row in rows if row[2] != "ok"]
    assert all("nvidia-smi" in row[3] or "compute-sanitizer" in row[3] for row in left_out), left_out
    # A step that cannot do its work is a line, and the next one runs.
    code, rows, said = check("--stand-in", "--only", "models,status", converter="/bin/false", **mocked)
    assert code == 1 and {row[2] for row in rows if row[0] == "models"} == {"FAILED"}, said
    assert [row[2] for row in rows if row[1] == "library"] == ["ok"], said
    # So is one that crashes: the library is none.
    code, rows, said = check("--stand-in", "--only", "status,operators", VCC_CUDA_MOCK="/no/such/driver.so")
    assert code == 1 and ["status", "library", "FAILED"] in [row[:3] for row in rows], said
    with tempfile.TemporaryDirectory() as folder:
        ends(Path(folder), mocked)
    print("ok", flush=True)


if __name__ == "__main__":
    main()
