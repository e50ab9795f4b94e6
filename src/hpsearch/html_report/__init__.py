"""Sections of text, tables and figures, written as a page, for the terminal or as Markdown."""
