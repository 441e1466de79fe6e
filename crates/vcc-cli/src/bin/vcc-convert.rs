//! `vcc-convert MODEL`: the same as `vcc convert MODEL`.

fn main() -> std::process::ExitCode {
    vcc_cli::vcc_convert()
}
