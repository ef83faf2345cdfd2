# SPDX-License-Identifier: Apache-2.0
"""The driver's trial: seeded faults during motion, and a witness of the wire that shares no code with it."""
