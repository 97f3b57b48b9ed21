//! Repo lint.
