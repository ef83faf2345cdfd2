# SPDX-License-Identifier: Apache-2.0
"""The twin: a MuJoCo kitchen whose six servos answer on a pty and whose cameras are rendered."""
