//! Compiles the kernels for the CPU, with the engine that runs them, into a static library.

fn main() {
    let folder = "../vcc-ops/cuda";
    println!("cargo:rerun-if-changed={folder}");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .flag("-fno-strict-aliasing")
        .flag("-ffp-contract=off")
        .flag("-Wno-unknown-pragmas")
        .file(format!("{folder}/emulator/entries.cpp"))
        .file(format!("{folder}/emulator/fibers.cpp"))
        .compile("vcc_cuda_emu");
}
