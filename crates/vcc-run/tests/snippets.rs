//! The Rust of README.md and docs/deploy.md compiles: it stands here word for word, and a test looks for each of its blocks.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

type Opened = Result<ort::session::Session, Box<dyn std::error::Error>>;

fn from_readme() -> Opened {
    let environment = ort::init_from("libonnxruntime.so")?.build()?;
    let session = ort::session::Session::builder(&environment)?
        .with_operator_library("libvcc_ops.so")?
        .commit_from_file("model.vcc.onnx")?;
    Ok(session)
}

fn from_deploy() -> Opened {
    let environment = ort::init_from("libonnxruntime.so")?.build()?;
    let session = ort::session::Session::builder(&environment)?
        .with_operator_library("libvcc_ops.so")?
        .with_execution_providers([ort::ep::CUDA::default().build()])?
        .commit_from_file("model.vcc.onnx")?;
    Ok(session)
}

fn on_the_device(
    mut session: ort::session::Session,
    tokens: ort::value::Tensor<i64>,
) -> ort::Result<usize> {
    use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};

    let device = MemoryInfo::new(
        AllocationDevice::CUDA,
        0,
        AllocatorType::Device,
        MemoryType::Default,
    )?;
    let mut binding = session.create_binding()?;
    binding.bind_input("input_ids", &tokens)?;
    binding.bind_output_to_device("last_hidden_state", &device)?;
    let outputs = session.run_binding(&binding)?;
    Ok(outputs.len())
}

/// Without the differences that formatting makes: white space, and the comma at the end of a list that is broken.
fn words(text: &str) -> String {
    text.split_whitespace()
        .collect::<String>()
        .replace(",)", ")")
}

#[test]
fn every_block_is_in_this_file() {
    // They are compiled, and need files that are not here to run.
    let _ = (from_readme, from_deploy, on_the_device);
    let here = words(include_str!("snippets.rs"));
    let mut blocks = 0;
    for text in [
        include_str!("../../../README.md"),
        include_str!("../../../docs/deploy.md"),
    ] {
        for block in text.split("```rust\n").skip(1) {
            let block = block.split("```").next().unwrap();
            assert!(here.contains(&words(block)), "not compiled here:\n{block}");
            blocks += 1;
        }
    }
    assert_eq!(blocks, 3);
}
