//! What a subcommand prints: `say!` is `println!` without the panic when the reader has gone (`vcc inspect model.onnx | head`).

use std::fmt::Arguments;
use std::io::{ErrorKind, Write as _};

/// Prints a line to stdout.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::say::line(format_args!($($text)*))
    };
}

pub(crate) fn line(text: Arguments<'_>) {
    let Err(error) = writeln!(std::io::stdout().lock(), "{text}") else {
        return;
    };
    if error.kind() == ErrorKind::BrokenPipe {
        // As if the signal had ended the process; all that was to be written elsewhere is.
        std::process::exit(141);
    }
    eprintln!("error: what was found could not be printed: {error}");
    std::process::exit(2);
}
