//! The crate as its callers see it, on a header device that is a vector of bytes.

mod changes;
mod disk;
mod formatting;
mod header_mac;
mod opening;
mod sequences;
mod tokens;
