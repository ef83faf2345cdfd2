# SPDX-License-Identifier: Apache-2.0
"""Setting an arm up: find its servos, configure, calibrate and check them. No terminal in here."""
