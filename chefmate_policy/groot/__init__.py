# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.5: configuration, model, checkpoints, processing, equal to NVIDIA's in numbers and keys."""
