//! Properties of the machine.

mod build;
mod equal;
mod verify;
