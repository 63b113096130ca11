//! Every bound of the store, with its unit.
