# SPDX-License-Identifier: Apache-2.0
"""What holds for every command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A command that prints more than a pipe holds, and does not look whether anybody reads it.
CHATTY = """
import sys
from chefmate import cli

def chat(options):
    print("much" * 100_000)
    return 0

cli.run = chat
sys.exit(cli.main(["stop"]))
"""


def test_output_that_nobody_reads_any_more_ends_a_command_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CHATTY], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(4) == "much"
    process.stdout.close()  # as `| head` does
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(60.0) == 141
    assert said == ""
