# SPDX-License-Identifier: Apache-2.0
"""The body of ChefMate: whatever senses or moves."""
