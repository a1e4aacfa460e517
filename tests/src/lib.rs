//! Tests that need more than one crate: layers, interop, transcripts, virtual machines.
