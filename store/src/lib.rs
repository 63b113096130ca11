//! Troika.
