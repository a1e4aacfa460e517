//~ E0369
use luksmith_crypto::SecretBytes;

fn mistake(left: SecretBytes, right: SecretBytes) -> bool {
    left == right
}

fn main() {}
