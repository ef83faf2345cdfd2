# SPDX-License-Identifier: Apache-2.0
"""Trials of obedience in processes of their own: kept one by one, gone on with, told apart."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chefmate.errors import ChefmateError
from chefmate.obey_log import OUTCOMES, TrialLog, policy_digest
from chefmate_policy.obedience.trial import Moved, Outcome

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from conftest import StartedProcess, until

SOME = Outcome(
    3, (("bread", 1.5),), (), ("bread",), (Moved("bread", "plate", True),), "bread", 9.0, 4, 0.1, "DONE"
)


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(
    tmp_path: Path, start_process: Callable[..., StartedProcess]
) -> None:
    report, log = tmp_path / "report", TrialLog(tmp_path / "report" / "trials")
    command = ["python", "-m", "chefmate.obey", "expert", "--rows", "empty", "negated", "change"]
    command += ["--trials", "1", "--workers", "1", "--latency", "0.02", "--report", str(report)]
    first = start_process(command)
    until(lambda: (log.folder / OUTCOMES).exists(), 90, f"an outcome; so far:\n{first.output}")
    assert first.stop(signal.SIGINT, 60) == 130, first.output
    kept = log.outcomes()
    assert 1 <= len(kept) < 3 and "trials are kept" in first.output
    second = start_process(command)
    assert second.wait(100) == 0, second.output
    lines = (log.folder / OUTCOMES).read_text().splitlines()
    assert sorted(json.loads(line)["number"] for line in lines) == [0, 1, 2], "each trial ran once"
    assert {number: log.outcomes()[number] for number in kept} == kept
    loop = json.loads((report / "result.json").read_text())["closed_loop"]
    assert loop["done"] == 3 and not loop["faults"]
    assert [row["rightly"]["successes"] for row in loop["rows"]] == [1, 1, 1]
    change = next(row for row in loop["rows"] if row["id"] == "change")
    assert change["targeted"]["placed_flat"]["successes"] == 1
    assert (report / "index.html").stat().st_size > 1000


def test_a_line_that_a_kill_cut_short_is_dropped_and_its_trial_runs_again(tmp_path: Path) -> None:
    log = TrialLog(tmp_path)
    log.append(SOME)
    with (tmp_path / OUTCOMES).open("a") as file:
        file.write('{"number": 4, "contac')
    assert TrialLog(tmp_path).outcomes() == {3: SOME}
    log.append(Outcome(4))
    assert log.outcomes() == {3: SOME, 4: Outcome(4)}


def test_a_line_that_is_no_outcome_is_named(tmp_path: Path) -> None:
    log = TrialLog(tmp_path)
    log.append(SOME)
    with (tmp_path / OUTCOMES).open("a") as file:
        file.write(json.dumps({"number": 4}) + "\n")
    with pytest.raises(ChefmateError, match=r"outcomes\.jsonl:2 is not an outcome"):
        log.outcomes()


def test_another_plan_does_not_go_on(tmp_path: Path) -> None:
    log = TrialLog(tmp_path)
    log.begin({"policy": "one", "seed": 0})
    log.begin({"policy": "one", "seed": 0})
    with pytest.raises(ChefmateError, match="policy = 'one', not 'two'"):
        log.begin({"policy": "two", "seed": 0})


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with TrialLog(tmp_path).locked(), pytest.raises(ChefmateError, match="another process"):
        with TrialLog(tmp_path).locked():
            pytest.fail("both have the folder")


def test_policies_are_told_apart_by_their_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    before = policy_digest("local", str(tmp_path))
    assert policy_digest("local", str(tmp_path)) == before
    weights.write_bytes(b"two")
    assert policy_digest("local", str(tmp_path)) != before
    assert policy_digest("expert", "") != policy_digest("server", "")
