# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.5: configuration, model, checkpoints and processing, equal to NVIDIA's release in numbers and keys."""
