//~ E0599
use luksmith_crypto::{Cipher, IoBuf};

fn mistake(encrypted: &IoBuf<Cipher>) -> usize {
    encrypted.as_plain().len()
}

fn main() {}
