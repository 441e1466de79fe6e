//! Finds the fat binary of the CUDA kernels: `VCC_CUDA_FATBIN`, else `target/cuda/vcc_kernels.fatbin`, where `cargo xtask cuda` puts it.
//! Where there is none, or `VCC_CUDA_FATBIN` is set to nothing, the library has CPU kernels only.

use std::env;
use std::path::{Path, PathBuf};

fn main() -> Result<(), String> {
    println!("cargo::rustc-check-cfg=cfg(vcc_cuda)");
    println!("cargo::rerun-if-env-changed=VCC_CUDA_FATBIN");
    let fat_binary = match env::var_os("VCC_CUDA_FATBIN") {
        Some(path) if path.is_empty() => None,
        Some(path) => {
            let found = PathBuf::from(&path).canonicalize();
            Some(found.map_err(|error| format!("VCC_CUDA_FATBIN={}: {error}", path.display()))?)
        }
        None => {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/cuda");
            // An empty folder, so that cargo sees when something comes into it, and does not build anew each time.
            let _ = std::fs::create_dir_all(&folder);
            println!("cargo::rerun-if-changed={}", folder.display());
            folder.join("vcc_kernels.fatbin").canonicalize().ok()
        }
    };
    if let Some(path) = fat_binary {
        println!("cargo::rerun-if-changed={}", path.display());
        println!("cargo::rustc-env=VCC_CUDA_FATBIN={}", path.display());
        println!("cargo::rustc-cfg=vcc_cuda");
    }
    Ok(())
}
