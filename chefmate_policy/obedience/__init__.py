# SPDX-License-Identifier: Apache-2.0
"""Does a policy do what it is told? Cells, instructions and figures of `chefmate obey`.

Pure: scenes and outcomes are data; twin, graph and checkpoints come in through `chefmate`.
"""
