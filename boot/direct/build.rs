//! Links the loader low in memory, by its own linker script: the kernel's base address, which the target's flags name,
//! is not for it.

fn main() {
    println!("cargo::rerun-if-changed=link.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bins=--script={root}/link.ld");
    }
}
