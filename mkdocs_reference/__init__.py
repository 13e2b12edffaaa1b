"""Writes the pages of ``docs/reference/`` that follow from the code, and prepares the others for the site.

``python -m mkdocs_reference`` renews the pages, which are committed; ``tests/project/test_reference.py`` compares them
with the code.
"""
