//! Loom models of the shipped protocol code; see `tests/`.
