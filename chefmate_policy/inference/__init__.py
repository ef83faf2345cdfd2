# SPDX-License-Identifier: Apache-2.0
"""Inference: observations in, action chunks out, in time. See docs/policy.md."""
