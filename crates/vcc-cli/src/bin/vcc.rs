//! `vcc`: convert, inspect, verify and measure.

fn main() -> std::process::ExitCode {
    vcc_cli::vcc()
}
