"""The study: reads and validates study files, and decides what a resumed study may change."""
