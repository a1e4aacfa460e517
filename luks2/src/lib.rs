//! Says what is on disk: LUKS2 bytes and JSON as values that cannot be invalid.
