# SPDX-License-Identifier: Apache-2.0
"""The mind of ChefMate: whatever decides."""
