//~ E0423
use luksmith_crypto::{SecretBytes, VolumeKey};

fn mistake(candidate: SecretBytes) -> VolumeKey {
    VolumeKey(candidate)
}

fn main() {}
