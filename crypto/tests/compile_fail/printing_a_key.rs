//~ E0277
use luksmith_crypto::VolumeKey;

fn mistake(key: &VolumeKey) -> String {
    format!("{key:?}")
}

fn main() {}
