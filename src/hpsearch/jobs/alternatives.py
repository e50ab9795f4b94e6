"""Make the ways to predict with uncertainty that an evaluation compares with MC Dropout."""

from __future__ import annotations
