# SPDX-License-Identifier: Apache-2.0
"""Feetech STS3215 servo bus: packets, register table, bus, and a servo emulator on a pty. No ROS in here."""
