# SPDX-License-Identifier: Apache-2.0
"""Errors of the virt room that cross a boundary, with VDSM's codes."""
