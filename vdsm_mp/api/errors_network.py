# SPDX-License-Identifier: Apache-2.0
"""Errors of the network room that cross a boundary, with VDSM's codes."""
