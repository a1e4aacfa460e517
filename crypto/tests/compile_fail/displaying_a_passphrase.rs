//~ E0599
use luksmith_crypto::Passphrase;

fn mistake(passphrase: &Passphrase) -> String {
    passphrase.to_string()
}

fn main() {}
