//! What the built library exports and needs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use object::{Object, ObjectSymbol};

/// Cargo builds the library beside the tests, from the same sources.
fn library() -> Vec<u8> {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().unwrap().join("libvcc_ops.so");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn exports_two_functions() {
    let bytes = library();
    let file = object::File::parse(&*bytes).unwrap();
    let defined = file
        .dynamic_symbols()
        .filter(|symbol| symbol.is_global() && !symbol.is_undefined());
    let mut names: Vec<_> = defined
        .map(|symbol| symbol.name().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["RegisterCustomOps", "VccCudaStatus"]);
}

#[test]
fn needs_only_the_c_library() {
    use object::elf::{DT_NEEDED, FileHeader64};
    use object::read::elf::{Dyn, FileHeader};

    let bytes = library();
    let elf = FileHeader64::<object::Endianness>::parse(&*bytes).unwrap();
    let endian = elf.endian().unwrap();
    let sections = elf.sections(endian, &*bytes).unwrap();
    let (entries, strings) = sections
        .dynamic(endian, &*bytes)
        .unwrap()
        .expect("a dynamic section");
    let strings = sections.strings(endian, &*bytes, strings).unwrap();
    let needed = entries
        .iter()
        .filter(|entry| entry.d_tag(endian) == u64::from(DT_NEEDED));
    for entry in needed {
        let name = std::str::from_utf8(entry.string(endian, strings).unwrap()).unwrap();
        let allowed = [
            "libc.so",
            "libm.so",
            "libgcc_s.so",
            "libpthread.so",
            "libdl.so",
            "ld-linux",
        ];
        assert!(
            allowed.iter().any(|prefix| name.starts_with(prefix)),
            "needs {name}"
        );
    }
}
