"""Writes the pages of ``docs/reference/`` that follow from the code, and links the glossary in all others.

``python -m mkdocs_reference`` renews them; they are committed, and ``tests/project/test_reference.py`` compares them
with the code.
"""
