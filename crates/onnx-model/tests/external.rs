//! External data: mapped when asked for, never from outside the model's directory.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
use common::*;
use onnx_model::{Model, Tensor};
use std::path::Path;

/// A model with one external initializer of two floats.
fn external(entries: &[(&str, &str)]) -> Vec<u8> {
    let entries: Vec<u8> = entries
        .iter()
        .flat_map(|(k, v)| len(13, [len(1, k), len(2, v)].concat()))
        .collect();
    model(&len(
        5,
        [int(1, 2), int(2, 1), len(8, "w"), entries, int(14, 1)].concat(),
    ))
}

fn tensor(dir: &Path, entries: &[(&str, &str)]) -> Tensor {
    let path = dir.join("m.onnx");
    std::fs::write(&path, external(entries)).unwrap();
    let model = Model::open(&path).unwrap();
    model
        .graph
        .tensor(model.graph.find_value("w").unwrap())
        .unwrap()
}

#[test]
fn elements_come_from_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = [9.0f32, 1.5, -2.0]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/w.bin"), bytes).unwrap();
    let location = ("location", "sub/w.bin");
    let t = tensor(
        dir.path(),
        &[
            location,
            ("offset", "4"),
            ("length", "8"),
            ("checksum", "x"),
        ],
    );
    assert!(t.is_external());
    assert_eq!(t.to_f64s().unwrap(), [1.5, -2.0]);
    assert_eq!(
        tensor(dir.path(), &[location]).to_f64s().unwrap(),
        [9.0, 1.5]
    );
    for wrong in [
        ("length", "12"),
        ("length", "4"),
        ("offset", "8"),
        ("offset", "100"),
        ("offset", "-4"),
        ("offset", "18446744073709551615"),
    ] {
        assert!(
            tensor(dir.path(), &[location, wrong]).raw().is_none(),
            "{wrong:?}"
        );
    }
}

#[test]
fn the_model_need_not_have_its_data() {
    let bytes = external(&[("location", "missing.bin")]);
    let mut model = read(bytes.clone());
    assert_eq!(model.to_vec().unwrap(), bytes);
    assert_eq!(model.external_files(), [Path::new("missing.bin")]);
    let w = model.graph.find_value("w").unwrap();
    let t = model.graph.tensor(w).unwrap();
    assert_eq!((t.dims(), t.to_f64s()), (&[2][..], None));
    assert_eq!(t.read_raw().unwrap_err().code(), "E-ONNX-EXTERNAL");
    // The reference survives a new name.
    let copy = model.graph.add_initializer("copy", t);
    let again = read(model.to_vec().unwrap());
    let copy = again
        .graph
        .find_value(&model.graph.value(copy).name)
        .unwrap();
    assert!(again.graph.tensor(copy).unwrap().is_external());
}

#[test]
fn paths_stay_inside() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("model");
    std::fs::create_dir(&dir).unwrap();
    let secret = outer.path().join("secret");
    std::fs::write(&secret, [0; 8]).unwrap();
    for location in [
        "../secret",
        "x/../../secret",
        "./../secret",
        secret.to_str().unwrap(),
        "",
        ".",
        "/dev/zero",
    ] {
        let error = tensor(&dir, &[("location", location)])
            .read_raw()
            .unwrap_err();
        assert_eq!(error.code(), "E-ONNX-EXTERNAL", "{location}");
    }
    std::fs::write(dir.join("inside"), [0; 8]).unwrap();
    assert!(tensor(&dir, &[("location", "./inside")]).raw().is_some());
}

#[cfg(unix)]
#[test]
fn a_cache_of_links_works() {
    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/1"));
    std::fs::create_dir(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(blobs.join("a1"), external(&[("location", "m.onnx_data")])).unwrap();
    std::fs::write(
        blobs.join("b2"),
        [1.0f32.to_le_bytes(), 2.0f32.to_le_bytes()].concat(),
    )
    .unwrap();
    std::os::unix::fs::symlink("../../blobs/a1", snapshot.join("m.onnx")).unwrap();
    std::os::unix::fs::symlink("../../blobs/b2", snapshot.join("m.onnx_data")).unwrap();
    let model = Model::open(&snapshot.join("m.onnx")).unwrap();
    let w = model.graph.find_value("w").unwrap();
    assert_eq!(
        model.graph.tensor(w).unwrap().to_f64s().unwrap(),
        [1.0, 2.0]
    );
}
