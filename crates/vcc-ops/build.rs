//! Finds the fat binary of the CUDA kernels: `VCC_CUDA_FATBIN`, else `target/cuda/vcc_kernels.fatbin`, where `cargo xtask cuda` puts it.
//! Without one the library has CPU kernels only.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(vcc_cuda)");
    println!("cargo::rerun-if-env-changed=VCC_CUDA_FATBIN");
    let named = env::var_os("VCC_CUDA_FATBIN").map(PathBuf::from);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/cuda");
    let fat_binary = match named {
        Some(path) => path,
        None => {
            // An empty folder, so that cargo sees when something comes into it, and does not build anew each time.
            let _ = std::fs::create_dir_all(&folder);
            println!("cargo::rerun-if-changed={}", folder.display());
            folder.join("vcc_kernels.fatbin")
        }
    };
    if let Ok(path) = fat_binary.canonicalize() {
        println!("cargo::rerun-if-changed={}", path.display());
        println!("cargo::rustc-env=VCC_CUDA_FATBIN={}", path.display());
        println!("cargo::rustc-cfg=vcc_cuda");
    }
}
