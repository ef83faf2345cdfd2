# SPDX-License-Identifier: Apache-2.0
"""`chefmate doctor`: what is missing on this machine, and the command that mends it. Changes nothing."""
