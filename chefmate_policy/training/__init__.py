# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of GR00T N1.5: what trains, proven before the first step, and the run."""
