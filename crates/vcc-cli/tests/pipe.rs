//! A reader that goes away ends a subcommand in silence.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::{Command, Stdio};

#[test]
fn nobody_reads_on() {
    let model = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fixtures/models/bert__ts17_sdpa.onnx"
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_vcc"))
        .args(["inspect", model])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(141));
}
