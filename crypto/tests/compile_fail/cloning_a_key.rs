//~ E0599
use luksmith_crypto::VolumeKey;

fn mistake(key: VolumeKey) -> [VolumeKey; 2] {
    [key.clone(), key]
}

fn main() {}
