"""Sections of a report and how they are written: as an HTML page, for a terminal, as Markdown."""
