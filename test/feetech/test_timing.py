# SPDX-License-Identifier: Apache-2.0
"""Why a bus is slow, and the bench that says how slow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chefmate_driver.arm.emulated import EmulatedArmProcess
from chefmate_driver.feetech.bench import BARE, CHEFMATE, WIRE, measure_bus
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.errors import FeetechError, ServoMissingError
from chefmate_driver.feetech.faults import Fault, FaultKind, FaultScript
from chefmate_driver.feetech.timing import USB_FRAME, TimingReport, cycle_sizes, diagnose_timing

IDS = (1, 2, 3, 4, 5, 6)
ATTEMPTS = 8  # other work on the machine delays replies too: a cause is found, or not found, in one of these


def causes(report: TimingReport) -> list[str]:
    return [cause.name for cause in report.causes]


def test_a_cycle_of_six_servos_has_the_bytes_that_the_protocol_says() -> None:
    assert cycle_sizes(6) == (14, 126, 26)
    assert pytest.approx(0.00166) == WIRE


def test_factory_return_delays_are_named_with_the_command_that_mends_them(
    bus: FeetechBus, port: EmulatedPort
) -> None:
    port.emulator.begin(Fault(FaultKind.RETURN_DELAY, ids=(2, 5), amount=250.0))
    report = diagnose_timing(bus, IDS)
    assert report.return_delays == {1: 0, 2: 250, 3: 0, 4: 0, 5: 250, 6: 0}
    cause = next(cause for cause in report.causes if cause.name == "return_delay")
    assert cause.seconds == pytest.approx(0.001)
    assert cause.text.startswith(
        "servo 2, 5 wait up to 500 us before each reply (return delay, register 7, is 250)"
    )
    assert "chefmate arm configure" in cause.mend
    assert bus.reply_timeout == 0.5


def test_latency_without_another_cause_is_called_so(bus: FeetechBus, port: EmulatedPort) -> None:
    port.emulator.begin(Fault(FaultKind.LATENCY, amount=0.02))
    report = diagnose_timing(bus, IDS)
    assert causes(report)[0] == "latency"
    assert report.causes[0].seconds > 0.015
    assert "no hub" in report.text
    assert report.holdable_rate < 50.0


def test_usb_frames_are_told_apart_from_steady_replies(tmp_path: Path) -> None:
    link = tmp_path / "servos"
    frames = FaultScript((Fault(FaultKind.USB_QUANTISATION),))
    for script, grid in ((frames, USB_FRAME), (None, 0.0)):
        with (
            EmulatedArmProcess(link, pace=1_000_000, script=script),
            FeetechBus(str(link), reply_timeout=0.5) as bus,
        ):
            reports = []
            while not reports or (reports[-1].grid != grid and len(reports) < ATTEMPTS):
                reports.append(diagnose_timing(bus, IDS))
        assert reports[-1].grid == grid
        assert ("usb_quantisation" in causes(reports[-1])) == bool(grid)


def test_a_healthy_bus_holds_more_than_200_hz_and_a_slow_one_says_less(tmp_path: Path) -> None:
    link = tmp_path / "servos"
    with EmulatedArmProcess(link, pace=1_000_000), FeetechBus(str(link), reply_timeout=0.5) as bus:
        rates = []
        while not rates or (rates[-1] < 200.0 and len(rates) < ATTEMPTS):
            rates.append(diagnose_timing(bus, IDS).holdable_rate)
    assert rates[-1] >= 200.0
    assert rates[-1] < 1.0 / WIRE
    slow = FaultScript((Fault(FaultKind.RETURN_DELAY, amount=250.0),))
    with (
        EmulatedArmProcess(link, pace=1_000_000, script=slow),
        FeetechBus(str(link), reply_timeout=0.5) as bus,
    ):
        report = diagnose_timing(bus, IDS)
    assert report.cycle > WIRE + 6 * 0.0005
    assert report.holdable_rate < 1.0 / report.cycle < 215.0


def test_no_servos_is_no_diagnosis(bus: FeetechBus, port: EmulatedPort) -> None:
    port.emulator.faults.silent = {3}
    bus.retries, bus.reply_timeout = 0, 0.01
    with pytest.raises(ServoMissingError, match="servo 3"):
        diagnose_timing(bus, IDS)
    assert bus.reply_timeout == 0.01


def test_the_bench_measures_both_clients_on_the_same_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHEFMATE_LEROBOT_PYTHON", raising=False)
    document = json.loads(json.dumps(measure_bus(0.3).as_json()))
    rows = {row["client"]: row for row in document["wire"]["clients"]}
    assert set(rows) >= {BARE, CHEFMATE}
    for row in rows.values():
        assert row["p50"] >= 1e3 * WIRE
        assert row["added_p50"] == pytest.approx(row["p50"] - 1.66)
    slow = document["usb_1ms_return_delay_250"]
    assert "return_delay" in [cause["name"] for cause in slow["diagnosis"]["causes"]]
    assert all(row["p50"] > 4.5 for row in slow["clients"])
    assert slow["paced"]["wanted"] == pytest.approx(min(200.0, slow["diagnosis"]["holdable_rate"]))
    assert "COMMAND" not in document["lerobot"]


def test_emulated_servos_that_cannot_start_say_why(tmp_path: Path) -> None:
    with pytest.raises(FeetechError, match=r"did not start .*no-such-arm"):
        EmulatedArmProcess(tmp_path / "servos", calibration="no-such-arm")


def test_emulated_servos_whose_link_cannot_be_made_say_why_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        FeetechError, match=r"did not start \(1\): .*: /proc/x cannot be made .*choose another"
    ):
        EmulatedArmProcess(Path("/proc/x"))
