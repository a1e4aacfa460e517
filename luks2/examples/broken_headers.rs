//! Writes one broken header per fault into a directory: `images/FAULT.img` for other programs to judge, and seeds for
//! the fuzzing targets beside it (`header`, `image`, `json`, `resolve`).

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;

fn main() -> std::io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1) else {
        return Err(std::io::Error::other("usage: broken_headers DIRECTORY"));
    };
    let directory = Path::new(&directory);
    for name in ["images", "header", "image", "json", "resolve"] {
        std::fs::create_dir_all(directory.join(name))?;
    }
    let faults = support::faults::all();
    for fault in &faults {
        let image = fault.image();
        std::fs::write(
            directory.join("images").join(format!("{}.img", fault.name)),
            &image,
        )?;
        std::fs::write(directory.join("header").join(fault.name), &image)?;
        std::fs::write(directory.join("json").join(fault.name), &fault.text)?;
        std::fs::write(
            directory.join("image").join(fault.name),
            [&[0][..], &image].concat(),
        )?;
        let numbers = [4_u64.to_be_bytes(), 5_u64.to_be_bytes()].concat();
        let texts = [
            &numbers[..],
            &fault.text,
            &[0],
            support::sample().to_string().as_bytes(),
        ]
        .concat();
        std::fs::write(directory.join("resolve").join(fault.name), texts)?;
    }
    println!("{} headers in {}", faults.len(), directory.display());
    Ok(())
}
