//! Holds key bytes and turns sectors into ciphertext and back.
